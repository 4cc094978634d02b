// SPDX-License-Identifier: GPL-3.0-only
//! `microslice daemon`: gives each domain the ranges of its kernel, and what the policy file says.
//!
//! One thread waits for xenstore's watches, signals and the few things that no watch tells ([`state`]). What it knows it
//! can lose at any moment: the hypervisor keeps its tables, each of which is replaced by one hypercall, and the next
//! start compares them with what they should be. It sets weight, cap, row and cpupools when it first sees a domain, when
//! the domain is renamed, and when the policy file is read again; what an administrator changes in between stays.

mod log;
mod metrics;
mod publish;
mod state;
mod watch;

use crate::cli;
use crate::hyper::safe::Xen;
use crate::hyper::safe::error::{Cause, Op};
use crate::hyper::safe::types::Domain;
use crate::kernels::Kernels;
use crate::lock::lock;
use crate::policy::Policy;
use crate::policy::plan::{self, Change, Ranges};
use anyhow::{Context, Error, Result};
use metrics::{Shared, count};
use publish::Publisher;
use sd_notify::NotifyState;
use state::{Active, Known, State};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::{error, info, warn};
use watch::{Event, Watches};

/// The policy file, unless another is named.
pub const POLICY: &str = "/etc/microslice/policy.yaml";
/// One daemon at a time; the kernel drops the lock with the process.
const LOCK: &str = "/run/microslice/daemon.lock";
/// To the next xenstored, after one that went.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Runs until SIGTERM or SIGINT.
pub fn run(args: &cli::Daemon) -> Result<String> {
    log::start();
    let file = args.policy.clone().or_else(|| Some(PathBuf::from(POLICY)).filter(|file| file.exists()));
    let policy = file.as_deref().map_or_else(|| Ok(Policy::builtin()), Policy::load)?;
    let xen = Xen::open()?;
    let _lock = lock(Path::new(LOCK), "microslice daemon")?;
    let (sender, events) = unbounded_channel();
    let shared = Shared::default();
    if let Some(address) = policy.metrics {
        metrics::serve(address, shared.clone(), sender.clone())?;
    }
    match &file {
        Some(file) => info!("policy {}", file.display()),
        None => info!("no {POLICY}: every domain gets its ranges, nothing else is touched"),
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start")?;
    let domains = BTreeMap::new();
    let kernels = Kernels::default();
    let daemon = Daemon { xen, policy, file, kernels, domains, publisher: None, shared };
    runtime.block_on(daemon.run(sender, events))?;
    Ok(String::new())
}

/// SIGTERM and SIGINT.
struct Stop(Signal, Signal);

impl Stop {
    async fn asked(&mut self) {
        tokio::select! { _ = self.0.recv() => {} _ = self.1.recv() => {} }
    }
}

struct Daemon {
    xen: Xen,
    policy: Policy,
    file: Option<PathBuf>,
    kernels: Kernels,
    domains: BTreeMap<u32, Known>,
    publisher: Option<Publisher>,
    shared: Shared,
}

impl Daemon {
    async fn run(
        mut self,
        sender: UnboundedSender<Event>,
        mut events: UnboundedReceiver<Event>,
    ) -> Result<()> {
        let handler = |kind| signal(kind).context("handle signals");
        let mut hangup = handler(SignalKind::hangup())?;
        let mut stop = Stop(handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
        // From here on a signal is not lost. Without a service manager this does nothing.
        sd_notify::notify(&[NotifyState::Ready]).context("tell the service manager")?;
        let mut watches = self.connect(&sender, &mut stop, Duration::ZERO).await?;
        while let Some(w) = &mut watches {
            let next = self.domains.values().filter_map(|known| known.next).min();
            // A day for ever: the timer does not take more.
            let wait = next
                .map_or(Duration::from_secs(86_400), |next| next.saturating_duration_since(Instant::now()));
            tokio::select! {
                () = stop.asked() => break,
                _ = hangup.recv() => self.reload(),
                () = tokio::time::sleep(wait) => {}
                event = events.recv() => match event {
                    Some(Event::Domains) => self.sync(w).await?,
                    Some(Event::Name(id)) => self.renamed(id),
                    Some(Event::Pools) => self.pools(),
                    Some(Event::Recheck) => self.recheck(),
                    Some(Event::Lost) | None => {
                        warn!("xenstored is gone: the ranges stay in force, waiting for it");
                        drop(watches.take());
                        self.publisher = None;
                        // Events of the old connection.
                        while events.try_recv().is_ok() {}
                        watches = self.connect(&sender, &mut stop, RECONNECT.0).await?;
                    }
                },
            }
            self.due();
        }
        info!("stopped: the ranges stay in force");
        if let Some(publisher) = &self.publisher {
            publisher.close().context("remove our state from xenstore")?;
        }
        Ok(())
    }

    /// Connects to xenstore, as often as it takes, and starts to know the host anew; none if told to stop.
    async fn connect(
        &mut self,
        events: &UnboundedSender<Event>,
        stop: &mut Stop,
        mut wait: Duration,
    ) -> Result<Option<Watches>> {
        let mut said = false;
        loop {
            tokio::select! {
                () = stop.asked() => return Ok(None),
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).clamp(RECONNECT.0, RECONNECT.1);
            // The watches first: what comes after the publisher has started is seen.
            let watches = Watches::open(events.clone()).await;
            match watches.and_then(|watches| Ok((watches, Publisher::open()?))) {
                Ok((watches, publisher)) => {
                    // Its connection for names may be to the xenstored that went.
                    self.xen = Xen::open()?;
                    self.publisher = Some(publisher);
                    self.domains.clear();
                    self.pools();
                    return Ok(Some(watches));
                }
                Err(e) if !said => warn!("connect to xenstore: {e}; trying again"),
                Err(_) => {}
            }
            said = true;
        }
    }

    fn renamed(&mut self, id: u32) {
        let name = self.xen.domain(id).ok().flatten().and_then(|domain| domain.name);
        if let Some(known) = self.domains.get_mut(&id).filter(|known| known.name != name) {
            if let (Some(old), Some(new)) = (&known.name, &name) {
                info!("domain '{old}' (id {id}) is now '{new}'");
            }
            known.again(Instant::now());
        }
    }

    /// Domains that came and went. Without a list of them there is nothing to do: an error ends the daemon.
    async fn sync(&mut self, watches: &mut Watches) -> Result<()> {
        let there = self.xen.domain_ids()?;
        let gone: Vec<u32> = self.domains.keys().filter(|id| !there.contains(id)).copied().collect();
        for id in gone {
            watches.forget(id);
            self.forget(id);
        }
        for id in there {
            if let Entry::Vacant(entry) = self.domains.entry(id) {
                entry.insert(Known::new(Instant::now()));
                watches.name(id).await;
            }
        }
        self.tally();
        Ok(())
    }

    fn forget(&mut self, id: u32) {
        let name = self.domains.remove(&id).and_then(|known| known.name);
        info!("{} is gone", named(id, name.as_deref()));
        self.publish(|publisher| publisher.forget(id));
    }

    fn publish(&self, put: impl FnOnce(&Publisher) -> std::io::Result<()>) {
        if let Some(Err(e)) = self.publisher.as_ref().map(put) {
            warn!("write our state to xenstore: {e}");
        }
    }

    /// Looks at all whose time has come.
    fn due(&mut self) {
        let now = Instant::now();
        let due = self.domains.iter().filter(|(_, known)| known.next.is_some_and(|next| next <= now));
        for id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.look(id);
        }
    }

    /// The domain, unless it is gone or about to go, of which @releaseDomain tells.
    fn alive(&self, id: u32) -> Result<Option<Domain>> {
        Ok(self.xen.domain(id)?.filter(|domain| !domain.dying))
    }

    fn look(&mut self, id: u32) {
        let known = |this: &Daemon| this.domains.get(&id).and_then(|known| known.name.clone());
        let (name, looked) = match self.alive(id) {
            // Its name goes before it does.
            Ok(Some(domain)) => (domain.name.clone().or_else(|| known(self)), self.examine(&domain)),
            Ok(None) => return self.sleep(id),
            Err(e) => (known(self), Err(e)),
        };
        let state = match looked {
            Ok(state) => state,
            // What fails of one that goes meanwhile is no failure.
            Err(_) if matches!(self.alive(id), Ok(None)) => return self.sleep(id),
            Err(e) => State::Failed(format!("{e:#}")),
        };
        let Some(known) = self.domains.get_mut(&id) else { return };
        if !known.found(name.clone(), state.clone(), Instant::now()) {
            return;
        }
        let who = named(id, name.as_deref());
        match &state {
            State::Active(a) => {
                let (ranges, file, slide, generation) = (a.ranges, a.kernel.display(), a.slide, a.generation);
                info!("{who}: {ranges} ranges of {file}, slide {slide:#x}, generation {generation}");
            }
            State::Failed(why) => {
                warn!("{who}: {why}");
                count(&self.shared, |tally| tally.failures += 1);
            }
            State::Waiting(why) => info!("{who}: {why}"),
            State::None(why) => info!("{who}: no ranges: {why}"),
        }
        self.publish(|publisher| publisher.domain(id, name.as_deref(), &state));
        self.tally();
    }

    /// Not until an event.
    fn sleep(&mut self, id: u32) {
        if let Some(known) = self.domains.get_mut(&id) {
            known.next = None;
        }
    }

    /// Makes a domain what its rule says, as far as that can be done now.
    fn examine(&mut self, domain: &Domain) -> Result<State> {
        let Some(name) = &domain.name else { return Ok(State::Waiting("it has no name yet")) };
        let Some(rule) = self.policy.domain(name) else {
            return Ok(State::None("the policy file has no rule for it".into()));
        };
        if let Err(e) = self.xen.require_microslice(Op::PushRanges, domain) {
            return match e.cause {
                Cause::OtherScheduler(name) => Ok(State::None(format!("it is under scheduler '{name}'"))),
                _ => Err(e.into()),
            };
        }
        if let Some(known) = self.domains.get_mut(&domain.id).filter(|known| !known.set) {
            let changes = plan::settings(rule, domain, self.xen.share(domain)?, self.xen.policy(domain)?);
            plan::apply(&self.xen, &changes)?;
            said(&changes);
            known.set = true;
        }
        let ranges = plan::ranges(&self.xen, &mut self.kernels, rule, domain)?;
        let why = ranges.why();
        Ok(match ranges {
            Ranges::NoRecord | Ranges::NotBooted => State::Waiting(why),
            Ranges::Untouched | Ranges::UnknownKernel => State::None(why.into()),
            Ranges::Known(table) => {
                let generation = if table.old == table.new {
                    self.xen.stats(domain)?.generation
                } else {
                    count(&self.shared, |tally| tally.pushes += 1);
                    self.xen.push_ranges(domain, &table.new)?
                };
                State::Active(Active {
                    ranges: table.new.len(),
                    kernel: table.file,
                    slide: table.slide,
                    generation,
                })
            }
        })
    }

    /// cpupools, as far as they are there.
    fn pools(&mut self) {
        if self.policy.pools.is_empty() {
            return;
        }
        let pools = match self.xen.pools() {
            Ok(pools) => pools,
            Err(e) => return error!("{e}"),
        };
        for (name, rule) in &self.policy.pools {
            let Some(pool) = pools.iter().find(|pool| pool.name == *name) else {
                warn!("cpupool '{name}' of the policy file is not there");
                continue;
            };
            let change = plan::pool(rule, pool).map_err(Error::from).and_then(|change| {
                let changes: Vec<Change> = change.into_iter().collect();
                plan::apply(&self.xen, &changes)?;
                said(&changes);
                Ok(())
            });
            if let Err(e) = change {
                warn!("{e:#}");
            }
        }
    }

    /// A domain that moved to another cpupool has lost its table, and no watch tells: its generation starts anew.
    fn recheck(&mut self) {
        for (&id, known) in &mut self.domains {
            let State::Active(Active { generation, .. }) = known.state else { continue };
            let Ok(Some(domain)) = self.xen.domain(id) else { continue };
            if self.xen.stats(&domain).is_ok_and(|stats| stats.generation < generation) {
                known.again(Instant::now());
            }
        }
    }

    fn reload(&mut self) {
        let Some(file) = &self.file else { return info!("there is no policy file to read again") };
        let policy = match Policy::load(file) {
            Ok(policy) => policy,
            Err(e) => {
                count(&self.shared, |tally| tally.bad_reloads += 1);
                return error!("{e:#}; the policy stays as it was");
            }
        };
        if policy.metrics != self.policy.metrics {
            warn!("metrics stay where they are until the daemon is started again");
        }
        info!("policy {} read again", file.display());
        count(&self.shared, |tally| tally.reloads += 1);
        self.policy = policy;
        let now = Instant::now();
        self.domains.values_mut().for_each(|known| known.again(now));
        self.pools();
    }

    fn tally(&self) {
        let mut states = BTreeMap::new();
        for known in self.domains.values() {
            *states.entry(known.state.word()).or_insert(0) += 1;
        }
        count(&self.shared, |tally| tally.states = states);
    }
}

fn said(changes: &[Change]) {
    for line in changes.iter().flat_map(Change::lines) {
        info!("{}: {} {} -> {}", line.object, line.what, line.from, line.to);
    }
}

fn named(id: u32, name: Option<&str>) -> String {
    name.map_or_else(|| format!("domain id {id}"), |name| format!("domain '{name}' (id {id})"))
}

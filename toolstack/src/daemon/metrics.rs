// SPDX-License-Identifier: GPL-3.0-only
//! Metrics for Prometheus on a loopback address, read from the hypervisor when they are asked for: nothing is sampled
//! in between. A thread of its own with its own way to the hypervisor; it never writes.

use super::watch::Event;
use crate::cmd::domain::View;
use crate::hyper::safe::Xen;
use crate::hyper::safe::types::Pool;
use anyhow::{Context, Result};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use tiny_http::{Header, Method, Request, Response, Server};
use tokio::sync::mpsc::UnboundedSender;

/// What the daemon counts itself.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Tables given to the hypervisor.
    pub pushes: u64,
    /// Looks at a domain that failed.
    pub failures: u64,
    /// Reloads of the policy file that succeeded.
    pub reloads: u64,
    /// Reloads that found the file wrong.
    pub bad_reloads: u64,
    /// Domains by state.
    pub states: BTreeMap<&'static str, u64>,
}

/// Shared by the daemon and the server.
pub type Shared = Arc<Mutex<Tally>>;

/// Changes the tally.
pub fn count(shared: &Shared, change: impl FnOnce(&mut Tally)) {
    change(&mut shared.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Serves metrics until the process ends.
pub fn serve(address: SocketAddr, shared: Shared, events: UnboundedSender<Event>) -> Result<()> {
    let server = Server::http(address).map_err(|e| anyhow::anyhow!("serve metrics on {address}: {e}"))?;
    let answer = move || {
        for request in server.incoming_requests() {
            // A reader that went away is no concern of ours.
            let _ = respond(request, &shared, &events);
        }
    };
    std::thread::Builder::new()
        .name("metrics".into())
        .spawn(answer)
        .context("start the thread of the metrics")?;
    Ok(())
}

fn respond(request: Request, shared: &Shared, events: &UnboundedSender<Event>) -> std::io::Result<()> {
    let plain = |code: u16, text: String| Response::from_string(text).with_status_code(code);
    if *request.method() != Method::Get {
        return request.respond(plain(405, "only GET\n".into()));
    }
    if request.url() != "/metrics" {
        return request.respond(plain(404, "only /metrics is here\n".into()));
    }
    let _ = events.send(Event::Recheck);
    let tally = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match read().and_then(|(pools, domains)| text(&pools, &domains, &tally)) {
        Ok(text) => {
            let kind = Header::from_bytes(
                "Content-Type",
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            );
            let mut response = Response::from_string(text);
            if let Ok(kind) = kind {
                response.add_header(kind);
            }
            request.respond(response)
        }
        Err(error) => request.respond(plain(503, format!("{error:#}\n"))),
    }
}

fn read() -> Result<(Vec<Pool>, Vec<View>)> {
    let xen = Xen::open()?;
    let pools = xen.pools()?;
    let domains = View::all(&xen, &pools)?;
    Ok((pools, domains))
}

type Labels = Vec<(&'static str, String)>;

/// One metric with its labels and values.
struct Metrics(Registry);

impl Metrics {
    fn counters(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value);
        }
        self.0.register(name, help, family);
    }

    /// Of nanoseconds, shown in seconds.
    fn seconds(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter<f64, AtomicU64>>::default();
        for (labels, ns) in values {
            family.get_or_create(&labels).inc_by(ns as f64 / 1e9);
        }
        self.0.register(name, help, family);
    }

    fn gauges(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Gauge<u64, AtomicU64>>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, help, family);
    }
}

fn text(pools: &[Pool], domains: &[View], tally: &Tally) -> Result<String> {
    let mut metrics = Metrics(Registry::with_prefix("microslice"));
    pool_metrics(&mut metrics, pools);
    domain_metrics(&mut metrics, domains);
    let none = Labels::new;
    metrics.counters("daemon_pushes", "Tables of ranges given to the hypervisor", [(none(), tally.pushes)]);
    metrics.counters("daemon_failures", "Looks at a domain that failed", [(none(), tally.failures)]);
    metrics.counters(
        "daemon_reloads",
        "Reloads of the policy file",
        [
            (vec![("result", "ok".into())], tally.reloads),
            (vec![("result", "error".into())], tally.bad_reloads),
        ],
    );
    let states = tally.states.iter().map(|(state, n)| (vec![("state", (*state).to_owned())], *n));
    metrics.gauges("daemon_domains", "Domains by the state of their ranges", states);
    let mut text = String::new();
    encode(&mut text, &metrics.0)?;
    Ok(text)
}

fn pool_metrics(metrics: &mut Metrics, pools: &[Pool]) {
    let ours =
        || pools.iter().filter_map(|pool| Some((vec![("pool", pool.name.clone())], pool.schedule.as_ref()?)));
    metrics.gauges("pool_cpus", "pCPUs", ours().map(|(l, s)| (l, s.nr_cpus.into())));
    metrics.gauges("pool_micro_cores", "Micro cores now", ours().map(|(l, s)| (l, s.cur_micro.into())));
    metrics.counters("pool_micro_runs", "Micro slices", ours().map(|(l, s)| (l, s.micro_runs)));
    metrics.seconds("pool_micro_seconds", "Time in micro slices", ours().map(|(l, s)| (l, s.micro_ns)));
    metrics.counters(
        "pool_rejected",
        "Decisions that Xen's checks refused",
        ours().map(|(l, s)| (l, s.rejected)),
    );
}

fn domain_metrics(metrics: &mut Metrics, domains: &[View]) {
    let ours: Vec<(Labels, _)> = domains
        .iter()
        .filter_map(|view| {
            let labels = vec![("domain", view.display_name()), ("domid", view.domid.to_string())];
            Some((labels, view.scheduled.as_ref()?.stats))
        })
        .collect();
    type Read = fn(&crate::hyper::safe::types::Stats) -> u64;
    let by = |label: &'static str, parts: &[(&str, Read)]| -> Vec<(Labels, u64)> {
        let row = |(labels, stats): &(Labels, _)| -> Vec<(Labels, u64)> {
            let with = |part: &str| labels.iter().cloned().chain([(label, part.to_owned())]).collect();
            parts.iter().map(|(part, read)| (with(part), read(stats))).collect()
        };
        ours.iter().flat_map(row).collect()
    };
    let all = |read: Read| ours.iter().map(move |(labels, stats)| (labels.clone(), read(stats)));
    let yields: [(&str, Read); 3] =
        [("ipi", |s| s.yields_ipi), ("lock", |s| s.yields_lock), ("other", |s| s.yields_other)];
    metrics.counters("domain_yields", "Yields", by("wait", &yields));
    let accelerations: [(&str, Read); 4] = [
        ("ipi", |s| s.accel_ipi),
        ("lock", |s| s.accel_lock),
        ("irq", |s| s.accel_irq),
        ("preempt", |s| s.accel_preempt),
    ];
    metrics.counters("domain_accelerations", "Accelerations by cause", by("cause", &accelerations));
    let refused: [(&str, Read); 3] =
        [("affinity", |s| s.refused_affinity), ("limit", |s| s.refused_limit), ("full", |s| s.refused_full)];
    metrics.counters("domain_refused", "Accelerations that were refused", by("reason", &refused));
    metrics.counters("domain_yields_kept", "Yields whose vCPU kept its pCPU", all(|s| s.yields_kept));
    metrics.counters(
        "domain_kicks_preempted",
        "Events for a vCPU that waited for a pCPU",
        all(|s| s.kicks_preempted),
    );
    metrics.counters("domain_preemptions", "Preemptions", all(|s| s.preempted));
    metrics.counters(
        "domain_preemptions_critical",
        "Preemptions inside a range",
        all(|s| s.preempted_critical),
    );
    metrics.counters("domain_graces", "Preemptions that were put off", all(|s| s.graces));
    metrics.counters("domain_micro_runs", "Micro slices", all(|s| s.micro_runs));
    metrics.seconds("domain_micro_seconds", "Time in micro slices", all(|s| s.micro_ns));
    metrics.seconds("domain_run_seconds", "Time on all cores", all(|s| s.run_ns));
    metrics.gauges("domain_ranges", "Ranges in force", all(|s| s.ranges));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::{domain, pool};

    #[test]
    fn counters_are_in_the_form_that_prometheus_reads() {
        let tally = Tally { pushes: 2, states: [("active", 1)].into(), ..Tally::default() };
        let pools = [pool::tests::sample(0, "Pool-0", Some(1)), pool::tests::sample(1, "other", None)];
        let domains = [domain::tests::sample(3, Some("web"), true), domain::tests::sample(4, None, false)];
        let text = text(&pools, &domains, &tally).unwrap();
        for line in [
            "# TYPE microslice_domain_accelerations counter",
            "microslice_domain_accelerations_total{domain=\"web\",domid=\"3\",cause=\"ipi\"} 110",
            "microslice_domain_ranges{domain=\"web\",domid=\"3\"} 812",
            "microslice_domain_run_seconds_total{domain=\"web\",domid=\"3\"} 12.0",
            "microslice_pool_micro_cores{pool=\"Pool-0\"} 1",
            "microslice_daemon_pushes_total{} 2",
            "microslice_daemon_domains{state=\"active\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(
            !text.contains("pool=\"other\"") && !text.contains("domid=\"4\""),
            "only what the scheduler has: {text}"
        );
    }

    #[test]
    fn only_metrics_are_served() {
        let (events, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).unwrap();
        serve(port, Shared::default(), events.clone()).unwrap();
        let ask = |request: &str| {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect(port).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        let end = "HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        assert!(ask(&format!("GET / {end}")).starts_with("HTTP/1.1 404"));
        assert!(ask(&format!("POST /metrics {end}")).starts_with("HTTP/1.1 405"));
        assert!(seen.try_recv().is_err());
        let answer = ask(&format!("GET /metrics {end}"));
        let expected = if Xen::open().is_ok() { "HTTP/1.1 200" } else { "HTTP/1.1 503" };
        assert!(answer.starts_with(expected), "{answer}");
        assert_eq!(seen.try_recv(), Ok(Event::Recheck));
        let error = serve(port, Shared::default(), events).unwrap_err().to_string();
        assert!(error.starts_with(&format!("serve metrics on {port}: Address already in use")), "{error}");
    }
}

// SPDX-License-Identifier: GPL-3.0-only
//! xenstore's watches as one queue of events.
//!
//! Two things about xenstore-rs 0.8 shape this. A connection stops while a watch's queue of 8 events is full, so each
//! watch has a task that does nothing but empty it. And a connection whose xenstored has gone keeps its callers waiting
//! without end, so requests have a time limit, and a socket of our own, on which nothing is ever said, tells the end.

use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::warn;
use xenstore_rs::AsyncWatch;
use xenstore_rs::tokio::XsTokio;

/// An answer takes microseconds; a xenstored that takes so long is gone.
const LIMIT: Duration = Duration::from_secs(10);
/// Where xenstore-rs looks for it, too.
const SOCKET: &str = "/run/xenstored/socket";

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A domain came, went or stopped.
    Domains,
    /// A domain has another name.
    Name(u32),
    /// A cpupool came, went or has another name.
    Pools,
    /// Something reads metrics: the moment to see whether the hypervisor still has what it was given.
    Recheck,
    /// xenstored is gone.
    Lost,
}

/// The watches; dropped, they end.
pub struct Watches {
    store: XsTokio,
    events: mpsc::UnboundedSender<Event>,
    names: BTreeMap<u32, JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
}

impl Watches {
    /// Connects, and watches domains and cpupools. Each watch fires once at its start.
    pub async fn open(events: mpsc::UnboundedSender<Event>) -> Result<Watches> {
        let mut others = Vec::new();
        let path = std::env::var("XENSTORED_PATH").unwrap_or_else(|_| SOCKET.to_owned());
        match UnixStream::connect(path).await {
            Ok(mut silent) => {
                let lost = events.clone();
                others.push(tokio::spawn(async move {
                    let _ = silent.read(&mut [0]).await;
                    let _ = lost.send(Event::Lost);
                }));
            }
            // Without a socket xenstored is another domain, and outlives us.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let store = limited(XsTokio::new()).await?;
        let mut watches = Watches { store, events, names: BTreeMap::new(), others };
        for (path, event) in [
            ("@introduceDomain", Event::Domains),
            ("@releaseDomain", Event::Domains),
            ("/local/pool", Event::Pools),
        ] {
            let task = watches.forward(path.to_owned(), event).await?;
            watches.others.push(task);
        }
        Ok(watches)
    }

    /// Watches a domain's name, if it is not watched yet. A xenstored that does not take a watch is as good as gone.
    pub async fn name(&mut self, domid: u32) {
        if self.names.contains_key(&domid) {
            return;
        }
        match self.forward(format!("/local/domain/{domid}/name"), Event::Name(domid)).await {
            Ok(task) => drop(self.names.insert(domid, task)),
            Err(e) => {
                warn!("watch the name of domain id {domid}: {e}");
                let _ = self.events.send(Event::Lost);
            }
        }
    }

    /// Ends the watch of a domain's name.
    pub fn forget(&mut self, domid: u32) {
        if let Some(task) = self.names.remove(&domid) {
            task.abort();
        }
    }

    /// Registers a watch, and a task that passes on what it says.
    async fn forward(&self, path: String, event: Event) -> Result<JoinHandle<()>> {
        let (store, events) = (self.store.clone(), self.events.clone());
        let (registered, result) = oneshot::channel();
        // The stream borrows the path, so one task has both.
        let task = tokio::spawn(async move {
            match limited(store.watch(&path)).await {
                Err(error) => drop(registered.send(Err(error))),
                Ok(mut stream) => {
                    let _ = registered.send(Ok(()));
                    while stream.next().await.is_some() {
                        if events.send(event).is_err() {
                            break;
                        }
                    }
                }
            }
        });
        result.await.map_err(|_| Error::new(ErrorKind::BrokenPipe, "the connection ended"))??;
        Ok(task)
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.names.values().chain(&self.others).for_each(JoinHandle::abort);
    }
}

async fn limited<T>(request: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Error::new(ErrorKind::TimedOut, "no answer");
    tokio::time::timeout(LIMIT, request).await.map_err(late)?
}

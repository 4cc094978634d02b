// SPDX-License-Identifier: GPL-3.0-only
//! The daemon's state in xenstore, for other tools in dom0: no guest can read below /tool. See the package's README.

use super::state::{Active, State};
use std::io::{ErrorKind, Result};
use xenstore_rs::{Xs, unix::XsUnix};

const ROOT: &str = "/tool/microslice";

/// A connection to write with.
pub struct Publisher(XsUnix);

impl Publisher {
    /// Connects, and removes what an earlier daemon left.
    pub fn open() -> Result<Publisher> {
        let publisher = Publisher(XsUnix::new()?);
        publisher.remove(ROOT)?;
        publisher.0.write(&format!("{ROOT}/version"), env!("CARGO_PKG_VERSION"))?;
        publisher.0.write(&format!("{ROOT}/pid"), &std::process::id().to_string())?;
        Ok(publisher)
    }

    fn remove(&self, path: &str) -> Result<()> {
        match self.0.rm(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// What is to be read of a domain, in the place of what was. `state` comes last: who watches it finds the rest written.
    pub fn domain(&self, domid: u32, name: Option<&str>, state: &State) -> Result<()> {
        self.forget(domid)?;
        let put = |key: &str, value: &str| self.0.write(&format!("{ROOT}/domain/{domid}/{key}"), value);
        put("name", name.unwrap_or_default())?;
        put("why", state.why())?;
        if let State::Active(Active { ranges, kernel, slide, generation }) = state {
            put("ranges", &ranges.to_string())?;
            put("kernel", &kernel.to_string_lossy())?;
            put("slide", &format!("{slide:#x}"))?;
            put("generation", &generation.to_string())?;
        }
        put("state", state.word())
    }

    /// The domain is gone.
    pub fn forget(&self, domid: u32) -> Result<()> {
        self.remove(&format!("{ROOT}/domain/{domid}"))
    }

    /// The daemon goes.
    pub fn close(&self) -> Result<()> {
        self.remove(ROOT)
    }
}

// SPDX-License-Identifier: GPL-3.0-only
//! Names of domains and cpupools, from xenstore. Only reads. Opened when first asked, so that a host whose xenstored
//! is down can still be controlled by id.

use std::cell::OnceCell;
use std::io;
use xenstore_rs::{Xs, unix::XsUnix};

/// A lazy connection to xenstore.
#[derive(Default)]
pub struct Names(OnceCell<Result<XsUnix, String>>);

impl Names {
    fn read(&self, path: &str) -> io::Result<String> {
        let store = self.0.get_or_init(|| XsUnix::new().map_err(|e| e.to_string()));
        let store = store.as_ref().map_err(|cause| io::Error::other(format!("cannot connect: {cause}")))?;
        store.read(path).map(|text| text.trim_end_matches('\0').to_owned())
    }

    /// The name of a domain; none if xenstore has none for it.
    pub fn domain(&self, id: u32) -> io::Result<Option<String>> {
        optional(self.read(&format!("/local/domain/{id}/name")))
    }

    /// The name of a cpupool; none if xenstore has none for it.
    pub fn pool(&self, id: u32) -> io::Result<Option<String>> {
        optional(self.read(&format!("/local/pool/{id}/name")))
    }
}

/// A node that is not there is no failure.
fn optional(read: io::Result<String>) -> io::Result<Option<String>> {
    match read {
        Ok(name) => Ok(Some(name).filter(|name| !name.is_empty())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

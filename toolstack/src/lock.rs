// SPDX-License-Identifier: GPL-3.0-only
//! One process at a time; the kernel drops a lock with the process that holds it.

use anyhow::{Context, Result, bail};
use std::fs::{File, TryLockError};
use std::path::Path;

/// Holds `path` until the file is closed; `other` is who may hold it already.
pub fn lock(path: &Path, other: &str) -> Result<File> {
    let what = || format!("lock {}", path.display());
    path.parent().map_or(Ok(()), std::fs::create_dir_all).with_context(what)?;
    let file = File::create(path).with_context(what)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("{}: another {other} is running", what()),
        Err(TryLockError::Error(e)) => Err(e).with_context(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_holds_a_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/lock");
        let first = lock(&path, "microslice daemon").unwrap();
        let error = lock(&path, "microslice daemon").unwrap_err().to_string();
        assert!(error.ends_with("another microslice daemon is running"), "{error}");
        drop(first);
        lock(&path, "microslice daemon").unwrap();
    }
}

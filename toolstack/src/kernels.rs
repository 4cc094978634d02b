// SPDX-License-Identifier: GPL-3.0-only
//! Kernels that were read before. Guests share kernels, and to unpack one takes half a second.

use crate::rangefile::{KernelRanges, catalog};
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// More kernels than this are not kept.
const KEPT: usize = 16;

/// What changes when a file does: device, inode, length, time of change in ns.
type Stamp = (u64, u64, u64, i128);

/// A file and the catalogue put over the built-in one.
type Key = (PathBuf, Option<PathBuf>);

/// The kernels that were read.
#[derive(Default)]
pub struct Kernels(HashMap<Key, (Vec<Stamp>, Rc<KernelRanges>)>);

impl Kernels {
    /// The ranges of a kernel or range file; read anew if it or the catalogue has changed.
    pub fn get(&mut self, file: &Path, over: Option<&Path>) -> Result<Rc<KernelRanges>> {
        let stamps = [Some(file), over].into_iter().flatten().map(stamp).collect::<Result<Vec<_>>>()?;
        let key = (file.to_owned(), over.map(Path::to_owned));
        match self.0.get(&key) {
            Some((then, kernel)) if *then == stamps => return Ok(kernel.clone()),
            _ => {}
        }
        let kernel = Rc::new(KernelRanges::load(file, &catalog(over)?)?);
        if self.0.len() >= KEPT {
            self.0.clear();
        }
        self.0.insert(key, (stamps, kernel.clone()));
        Ok(kernel)
    }
}

fn stamp(path: &Path) -> Result<Stamp> {
    let data = std::fs::metadata(path).with_context(|| format!("read {}", path.display()))?;
    let changed = i128::from(data.ctime()) * 1_000_000_000 + i128::from(data.ctime_nsec());
    Ok((data.dev(), data.ino(), data.len(), changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(names: &[&str]) -> String {
        let line = |(i, name): (usize, &&str)| format!("ffffffff8100{:x}000 T {name}\n", i + 1);
        let body: String = names.iter().enumerate().map(line).collect();
        format!(
            "ffffffff81000000 T _stext\n{body}ffffffff81a00000 T entry_SYSCALL_64\nffffffff82000000 T _etext\n"
        )
    }

    #[test]
    fn a_kernel_is_read_once_until_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("System.map");
        std::fs::write(&file, map(&["native_queued_spin_lock_slowpath", "x"])).unwrap();
        let mut kernels = Kernels::default();
        let first = kernels.get(&file, None).unwrap();
        assert!(Rc::ptr_eq(&first, &kernels.get(&file, None).unwrap()));
        std::fs::write(&file, map(&["native_queued_spin_lock_slowpath", "smp_call_function_many_cond", "x"]))
            .unwrap();
        let second = kernels.get(&file, None).unwrap();
        assert_eq!((first.ranges.len(), second.ranges.len()), (1, 2));
        let error = format!("{:#}", kernels.get(&dir.path().join("none"), None).unwrap_err());
        assert!(error.starts_with("read /") && error.contains("No such file"), "{error}");
    }
}

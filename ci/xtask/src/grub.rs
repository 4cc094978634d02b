// SPDX-License-Identifier: GPL-3.0-only
//! Debian's GRUB for PVH guests, unpacked into the cache; nothing is installed.

use crate::apt::Apt;
use crate::cache::{Cache, Key};
use anyhow::Result;
use std::fs;
use std::path::PathBuf;

/// The folder with `usr/bin/grub-mkimage`, `usr/lib/grub/i386-xen_pvh`, and the one library that a small system lacks.
///
/// # Errors
/// If it cannot be had.
pub fn get(cache: &Cache) -> Result<PathBuf> {
    cache.entry("grub", &Key::new("grub-xen-bin 1"), |dir| {
        let apt = Apt::open(cache)?;
        let packages =
            apt.closure(&["grub-common", "grub-xen-bin"], |name| name.starts_with("libdevmapper"))?;
        let files = apt.unpack(&packages, &[], dir, &cache.log("grub"))?;
        Ok(fs::write(dir.join("packages"), files.join("\n"))?)
    })
}

// SPDX-License-Identifier: GPL-3.0-only
//! What libxl remembers of a domain: the JSON of its configuration, which it keeps beside its other data of the domain
//! from the end of its creation to its destruction (libxl__userdata_path() in libxl_dom.c). Only reads.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// libxl's XEN_LIB_DIR.
pub const DIR: &str = "/var/lib/xen";

/// How libxl started a domain.
#[derive(Debug, PartialEq, Eq)]
pub enum Start {
    /// With this kernel.
    Kernel(PathBuf),
    /// With firmware, or with what a bootloader took out of its disk.
    Inside,
    /// libxl has no record: the domain is being created, or another toolstack's.
    NoRecord,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    b_info: BuildInfo,
}

#[derive(Default, Deserialize)]
struct BuildInfo {
    kernel: Option<PathBuf>,
    bootloader: Option<String>,
}

/// How libxl, whose data is in `dir`, started domain `domid`.
pub fn start_of(dir: &Path, domid: u32) -> Result<Start> {
    let read = || format!("read libxl's record of domain id {domid} in {}", dir.display());
    let start = format!("userdata-d.{domid}.");
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Start::NoRecord),
        Err(e) => return Err(e).with_context(read),
    };
    let names = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(&start) && name.ends_with(".libxl-json")
    });
    // A crashed toolstack may leave the record of an earlier domain of that number: the newest is this one's.
    let newest = names.max_by_key(|path| path.metadata().and_then(|data| data.modified()).ok());
    let Some(path) = newest else { return Ok(Start::NoRecord) };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Start::NoRecord),
        Err(e) => return Err(e).with_context(read),
    };
    // libxl stores the string with its NUL.
    let config: Config = serde_json::from_str(text.trim_end_matches('\0')).with_context(read)?;
    let info = config.b_info;
    Ok(match info.kernel {
        Some(kernel) if info.bootloader.is_none() => Start::Kernel(kernel),
        _ => Start::Inside,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_in_the_newest_record_of_the_domain() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(start_of(dir.path(), 3).unwrap(), Start::NoRecord);
        assert_eq!(start_of(&dir.path().join("none"), 3).unwrap(), Start::NoRecord);
        put("userdata-d.33.u.libxl-json", r#"{"b_info": {"kernel": "/other"}}"#);
        put("userdata-d.3.u.xl", "name = \"web\"");
        assert_eq!(start_of(dir.path(), 3).unwrap(), Start::NoRecord);
        put(
            "userdata-d.3.u.libxl-json",
            concat!(
                r#"{"c_info": {"type": "pvh"}, "b_info": {"kernel": "/boot/vmlinuz", "cmdline": "q"}}"#,
                "\n\0"
            ),
        );
        assert_eq!(start_of(dir.path(), 3).unwrap(), Start::Kernel("/boot/vmlinuz".into()));
        put("userdata-d.4.u.libxl-json", r#"{"b_info": {"type": "hvm"}}"#);
        assert_eq!(start_of(dir.path(), 4).unwrap(), Start::Inside);
        put("userdata-d.5.u.libxl-json", r#"{"b_info": {"kernel": "/run/xen/k", "bootloader": "pygrub"}}"#);
        assert_eq!(start_of(dir.path(), 5).unwrap(), Start::Inside);
        put("userdata-d.6.u.libxl-json", "{");
        let error = format!("{:#}", start_of(dir.path(), 6).unwrap_err());
        assert!(error.starts_with("read libxl's record of domain id 6 in /"), "{error}");
    }
}

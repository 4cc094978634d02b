// SPDX-License-Identifier: GPL-3.0-only
//! What makes dom0 a Debian one, from this machine: systemd as PID 1, with its journal, a few of its targets and one unit that
//! runs the job, and dpkg, which runs the scripts of packages (busybox's gives them no arguments).

use crate::cpio::Archive;
use crate::{closure, images};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

const MANAGER: &str = "/lib/systemd/systemd";
/// With what dpkg calls, or refuses to work without.
const PROGRAMS: [&str; 10] = [
    MANAGER,
    "/lib/systemd/systemd-journald",
    "/bin/systemctl",
    "/bin/journalctl",
    "/usr/bin/dpkg",
    "/usr/bin/dpkg-deb",
    "/usr/bin/dpkg-split",
    "/bin/tar",
    "/sbin/ldconfig",
    "/sbin/start-stop-daemon",
];
/// Where systemd looks for its own libraries.
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu/systemd";
const UNITS: &str = "/lib/systemd/system";
/// The journal, what the default dependencies of a service name, and what multi-user.target needs.
const FROM_SYSTEMD: [&str; 11] = [
    "basic.target",
    "multi-user.target",
    "paths.target",
    "shutdown.target",
    "slices.target",
    "sockets.target",
    "sysinit.target",
    "systemd-journald.service",
    "systemd-journald.socket",
    "timers.target",
    "umount.target",
];

/// Adds it all to a job.
///
/// # Errors
/// If the package systemd is not installed, or a file cannot be read.
pub fn files(archive: &mut Archive) -> Result<()> {
    let programs = PROGRAMS.map(Path::new);
    for (name, path) in
        closure::of(&programs, &[PathBuf::from(LIBRARIES)]).context("packages systemd, dpkg")?
    {
        archive.file(&format!("lib/{name}"), images::read(&path)?, 0o755);
    }
    let mut add = |path: &str, mode| -> Result<()> {
        archive.file(path.trim_start_matches('/'), images::read(Path::new(path))?, mode);
        Ok(())
    };
    for path in PROGRAMS {
        add(path, 0o755)?;
    }
    for unit in FROM_SYSTEMD {
        add(&format!("{UNITS}/{unit}"), 0o644)?;
    }
    for path in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"] {
        archive.directory(path);
    }
    archive
        .link("job/pid1", MANAGER)
        .link("etc/systemd/system/default.target", &format!("{UNITS}/multi-user.target"))
        .link("etc/systemd/system/multi-user.target.wants/job.service", "../job.service")
        .link(
            "etc/systemd/system/sockets.target.wants/systemd-journald.socket",
            &format!("{UNITS}/systemd-journald.socket"),
        )
        .file("etc/systemd/system/job.service", include_str!("../agent/job.service"), 0o644)
        .file("var/lib/dpkg/status", "", 0o644);
    Ok(())
}

// SPDX-License-Identifier: GPL-3.0-only
//! A Debian package of the toolstack: command, completions, man pages, systemd unit, sample policy.
//!
//! Xen's libraries are not among its dependencies: the command works with those of the patched Xen that it was built
//! with only, and no Debian package has them.

use crate::run;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// From a file of the project to its place in the package, with its mode.
const FILES: [(&str, &str, u32); 3] = [
    ("toolstack/dist/microslice.service", "lib/systemd/system/microslice.service", 0o644),
    ("toolstack/dist/policy.yaml", "etc/microslice/policy.yaml", 0o644),
    ("toolstack/dist/deb/copyright", "usr/share/doc/microslice/copyright", 0o644),
];
const SCRIPTS: [&str; 2] = ["postinst", "prerm"];
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/microslice"),
    ("zsh", "usr/share/zsh/vendor-completions/_microslice"),
    ("fish", "usr/share/fish/vendor_completions.d/microslice.fish"),
];
const MAN: &str = "usr/share/man/man8";
const COMMAND: &str = "usr/sbin/microslice";

/// Makes the package of `binary`, built against the Xen tree `tools` of release `xen`, in `out`; returns its path.
///
/// # Errors
/// If a part cannot be made or a tool of dpkg fails.
pub fn build(root: &Path, tools: &Path, xen: &str, binary: &Path, out: &Path) -> Result<PathBuf> {
    let version = format!("{}+xen{xen}", env!("CARGO_PKG_VERSION"));
    let work = tempfile::tempdir().context("package: temporary folder")?;
    let stage = work.path().join("stage");
    let libraries = library_folders(tools)?;
    let command = place(&stage, COMMAND)?;
    run::output(Command::new("strip").arg("--strip-unneeded").arg("-o").arg(&command).arg(binary))
        .context("package: strip the command")?;
    for (from, to, mode) in FILES {
        copy(&root.join(from), &place(&stage, to)?, mode)?;
    }
    generated(&stage, binary, &libraries)?;
    for script in SCRIPTS {
        copy(
            &root.join("toolstack/dist/deb").join(script),
            &place(&stage, &format!("DEBIAN/{script}"))?,
            0o755,
        )?;
    }
    write(&place(&stage, "DEBIAN/conffiles")?, "/etc/microslice/policy.yaml\n")?;
    let depends = dependencies(work.path(), &command, &libraries)?;
    write(&place(&stage, "DEBIAN/control")?, &control(&version, &depends, size_kib(&stage)?))?;
    fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let deb = out.join(format!("microslice_{version}_amd64.deb"));
    // gzip: what a dom0 with busybox only unpacks quickest.
    let mut cmd = Command::new("dpkg-deb");
    cmd.args(["--root-owner-group", "-Zgzip", "--build"]).arg(&stage).arg(&deb);
    run::output(&mut cmd).context("package: dpkg-deb")?;
    Ok(deb)
}

fn control(version: &str, depends: &str, kib: u64) -> String {
    format!(
        "Package: microslice\nVersion: {version}\nArchitecture: amd64\nSection: admin\nPriority: optional\n\
         Maintainer: The Microslice developers <microslice@localhost>\nInstalled-Size: {kib}\nDepends: {depends}\n\
         Description: control of Xen's microslice scheduler from dom0\n \
         The command microslice, and a daemon that gives each domain the critical ranges of\n \
         its kernel. Works with the Xen that it was built with only: the libraries of its\n \
         tools, libxenctrl and libxencall, have to be installed from that build.\n"
    )
}

/// What the command writes about itself.
fn generated(stage: &Path, binary: &Path, libraries: &[PathBuf]) -> Result<()> {
    let path = std::env::join_paths(libraries).context("package: library folders")?;
    let command = || {
        let mut cmd = Command::new(binary);
        cmd.env("LD_LIBRARY_PATH", &path);
        cmd
    };
    for (shell, to) in COMPLETIONS {
        let text = run::output(command().args(["completions", shell])).context("package: completions")?;
        write(&place(stage, to)?, &text)?;
    }
    let man = stage.join(MAN);
    run::output(command().arg("man").arg(&man)).context("package: man pages")?;
    let pages = fs::read_dir(&man).with_context(|| format!("list {}", man.display()))?;
    let pages: Vec<PathBuf> = pages.filter_map(|page| Some(page.ok()?.path())).collect();
    run::output(Command::new("gzip").args(["-9", "-n"]).args(pages))
        .context("package: pack the man pages")?;
    Ok(())
}

/// Debian's packages that the command needs, by dpkg-shlibdeps. It knows none for Xen's libraries, as it should be.
fn dependencies(work: &Path, command: &Path, libraries: &[PathBuf]) -> Result<String> {
    write(
        &place(work, "debian/control")?,
        "Source: microslice\n\nPackage: microslice\nArchitecture: amd64\n",
    )?;
    let mut cmd = Command::new("dpkg-shlibdeps");
    cmd.current_dir(work).args(["-O", "--ignore-missing-info", "--warnings=0"]);
    cmd.args(libraries.iter().map(|folder| format!("-l{}", folder.display())));
    let text = run::output(cmd.arg("-e").arg(command)).context("package: dpkg-shlibdeps")?;
    let depends = text.trim().strip_prefix("shlibs:Depends=").unwrap_or_default().to_owned();
    ensure!(depends.contains("libc6"), "package: dpkg-shlibdeps finds no libc6 in {depends:?}");
    Ok(depends)
}

fn library_folders(tools: &Path) -> Result<Vec<PathBuf>> {
    let libs = tools.join("tools/libs");
    let entries = fs::read_dir(&libs).with_context(|| format!("list {}", libs.display()))?;
    let mut folders: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    folders.sort();
    Ok(folders)
}

fn size_kib(stage: &Path) -> Result<u64> {
    let text = run::output(Command::new("du").args(["-k", "-s"]).arg(stage))?;
    text.split_whitespace().next().and_then(|n| n.parse().ok()).context("package: du printed no size")
}

/// The path in the package, its folder made.
fn place(stage: &Path, to: &str) -> Result<PathBuf> {
    let path = stage.join(to);
    let folder = path.parent().context("package: no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(path)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", to.display()))
}

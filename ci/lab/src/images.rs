// SPDX-License-Identifier: GPL-3.0-only
//! dom0's and the guests' initramfs and unpacked kernels, built from the inputs and cached.
//!
//! The cache key is the content of every file that goes in, so a cached image is never stale;
//! files appear under their final name complete or not at all.

use crate::cpio::Archive;
use crate::inputs::{LabInputs, hash};
use crate::{closure, kernel};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const MODULES: [&str; 5] = ["xen-evtchn", "xen-privcmd", "xen-gntdev", "xen-gntalloc", "xenfs"];
const PROGRAMS: [(&str, &str); 6] = [
    ("xl", "tools/xl/xl"),
    ("xenstored", "tools/xenstored/xenstored"),
    ("xenconsoled", "tools/console/daemon/xenconsoled"),
    ("xen-init-dom0", "tools/helpers/xen-init-dom0"),
    ("xen-hptool", "tools/misc/xen-hptool"),
    ("libxl-save-helper", "tools/libs/light/libxl-save-helper"),
];
const BUSYBOX: &str = "/bin/busybox";
const AGENT: [(&str, &str); 5] = [
    ("init", include_str!("../agent/init")),
    ("agent/lib.sh", include_str!("../agent/lib.sh")),
    ("agent/measure.sh", include_str!("../agent/measure.sh")),
    ("agent/shares.sh", include_str!("../agent/shares.sh")),
    ("agent/check.sh", include_str!("../../../tests/e2e/check.sh")),
];

/// Files an emulated machine boots from.
#[derive(Clone, Debug)]
pub struct Images {
    /// vmlinux ELF for dom0 (also inside dom0's image for the guests).
    pub vmlinux: PathBuf,
    /// dom0's initramfs; a run appends its job to it.
    pub dom0: PathBuf,
    /// Key of both: changes when any input does.
    pub key: String,
}

/// Builds what is not cached. `stress` adds Debian's stress-ng to the guests.
pub fn prepare(inputs: &LabInputs, stress: bool) -> Result<Images> {
    inputs.check()?;
    let package = inputs.kernel()?;
    let image = std::fs::read(&package.image).with_context(|| format!("read {}", package.image.display()))?;
    let vmlinux = vmlinux(&inputs.cache, &package.image)?;
    let guest = guest_image(inputs, stress)?;
    let mut files = dom0_files(inputs, &package)?;
    files.insert("boot/vmlinuz".into(), image);
    files.insert("boot/vmlinux".into(), read(&vmlinux)?);
    files.insert("boot/guest.cpio".into(), guest);
    files.extend(AGENT.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec())));
    let mut parts: Vec<&[u8]> = Vec::new();
    for (path, data) in &files {
        parts.extend([path.as_bytes(), data]);
    }
    let key = hash(&parts);
    let dom0 = cached(&inputs.cache, &key, "dom0.cpio", || dom0_image(&files))?;
    Ok(Images { vmlinux, dom0, key })
}

/// The ELF inside the bzImage `image`.
pub fn vmlinux(cache: &Path, image: &Path) -> Result<PathBuf> {
    let key = hash(&[b"loadable 2", &read(image)?]);
    cached(cache, &key, "vmlinux", || kernel::vmlinux(image))
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// CACHE/images/KEY-NAME, made by `make` if it is not there.
fn cached(cache: &Path, key: &str, name: &str, make: impl FnOnce() -> Result<Vec<u8>>) -> Result<PathBuf> {
    let folder = cache.join("images");
    let path = folder.join(format!("{}-{name}", &key[..16]));
    if !path.is_file() {
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        microslice_results::write_atomically(&path, &make()?)?;
        prune(&folder, name);
    }
    Ok(path)
}

/// Images of a kind that are kept, the newest; one is some 60 MB.
const KEPT: usize = 6;

/// Removes all but the newest images that end in `name`. What cannot be removed stays.
fn prune(folder: &Path, name: &str) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut images: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(name))
        .filter_map(|path| Some((path.metadata().and_then(|data| data.modified()).ok()?, path)))
        .collect();
    images.sort();
    let surplus = images.len().saturating_sub(KEPT);
    for (_, path) in images.into_iter().take(surplus) {
        let _ = std::fs::remove_file(path);
    }
}

/// Path in the image -> content, for everything that comes from outside this crate.
fn dom0_files(inputs: &LabInputs, package: &kernel::KernelPackage) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut programs: Vec<(String, PathBuf)> = Vec::new();
    for (name, place) in PROGRAMS {
        let path = inputs.xen_tree.join(place);
        ensure!(path.is_file(), "dom0 image: {}: not built", path.display());
        programs.push((name.to_owned(), path));
    }
    programs.extend(inputs.microslice.iter().map(|path| ("microslice".to_owned(), path.clone())));
    let paths: Vec<&Path> = programs.iter().map(|(_, path)| path.as_path()).collect();
    for (name, path) in closure::of(&paths, &library_folders(&inputs.xen_tree)?)? {
        files.insert(format!("lib/{name}"), stripped(&path)?);
    }
    // pthread_cancel needs it at run time and no DT_NEEDED names it.
    files.insert("lib/libgcc_s.so.1".into(), read(Path::new("/lib/x86_64-linux-gnu/libgcc_s.so.1"))?);
    for (name, path) in &programs {
        files.insert(format!("bin/{name}"), stripped(path)?);
    }
    for name in MODULES {
        let found = ["drivers/xen", "drivers/xen/xenfs"]
            .iter()
            .map(|folder| package.modules.join("kernel").join(folder).join(format!("{name}.ko")))
            .find(|path| path.is_file())
            .with_context(|| format!("dom0 image: module {name}.ko not in {}", package.modules.display()))?;
        files.insert(format!("modules/{name}.ko"), read(&found)?);
    }
    files.insert(
        "bin/busybox".into(),
        read(Path::new(BUSYBOX)).context("dom0 image: package busybox-static")?,
    );
    Ok(files)
}

/// Without debug information and symbols: every byte of an image is copied in emulation.
pub(crate) fn stripped(path: &Path) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().context("strip: temporary folder")?;
    let out = folder.path().join("out");
    let status = Command::new("strip")
        .arg("-o")
        .arg(&out)
        .arg(path)
        .status()
        .context("run strip (package binutils)")?;
    ensure!(status.success(), "strip {}: {status}", path.display());
    read(&out)
}

fn library_folders(tree: &Path) -> Result<Vec<PathBuf>> {
    let libs = tree.join("tools/libs");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&libs)
        .with_context(|| format!("list {}", libs.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    Ok(folders)
}

fn dom0_image(files: &BTreeMap<String, Vec<u8>>) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for (path, data) in files {
        archive.file(path, data.clone(), 0o755);
    }
    let applets = Command::new(BUSYBOX).arg("--list").output().context("run busybox --list")?;
    for name in String::from_utf8_lossy(&applets.stdout).lines().filter(|name| *name != "busybox") {
        archive.link(&format!("bin/{name}"), "busybox");
    }
    archive.link("lib64", "lib").file("etc/xen/xl.conf", "", 0o644);
    archive.link("var/run", "../run");
    for path in ["proc", "sys", "dev", "tmp", "run", "var/lib/xen", "var/lib/xenstored", "var/lock"] {
        archive.directory(path);
    }
    archive.directory("var/log/xen/console").directory("usr/local/lib/xen/bin").directory("etc/xen/scripts");
    Ok(archive.bytes())
}

fn guest_image(inputs: &LabInputs, stress: bool) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.file("init", stripped(&inputs.guest)?, 0o755);
    for path in ["proc", "sys", "dev", "tmp", "run"] {
        archive.directory(path);
    }
    if stress {
        let program = Path::new("/usr/bin/stress-ng");
        archive.file("usr/bin/stress-ng", read(program).context("guest image: package stress-ng")?, 0o755);
        for (name, path) in closure::of(&[program], &[])? {
            archive.file(&format!("lib/{name}"), read(&path)?, 0o755);
        }
        archive.link("lib64", "lib");
    }
    Ok(archive.bytes())
}

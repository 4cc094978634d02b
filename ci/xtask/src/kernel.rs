// SPDX-License-Identifier: GPL-3.0-only
//! Debian's own kernel for dom0 and the guests, and a newer one for a guest, unpacked into the cache; nothing is installed.

use crate::apt::{Apt, RELEASE};
use crate::cache::{Cache, Key};
use anyhow::{Context, Result};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// Where its parts are.
#[derive(Debug, Serialize)]
pub struct Kernel {
    /// The package, unpacked: has `boot` and `lib/modules`.
    pub dir: PathBuf,
    /// As `uname -r` says.
    pub release: String,
    /// The bzImage.
    pub vmlinuz: PathBuf,
    /// `lib/modules/<release>`.
    pub modules: PathBuf,
    /// Name of the package's file, with Debian's version.
    pub package: String,
}

/// Gets the kernel that linux-image-amd64 stands for, or takes it from the cache.
///
/// # Errors
/// If it cannot be had.
pub fn get(cache: &Cache) -> Result<Kernel> {
    let dir = cache.entry("kernel", &Key::new("linux-image-amd64 1"), |dir| {
        let files = unpack(cache, "linux-image-amd64", &[], dir)?;
        Ok(fs::write(dir.join("packages"), files.join("\n"))?)
    })?;
    let modules_of = |d: &str| dir.join(d).join("modules");
    let modules = [modules_of("lib"), modules_of("usr/lib")].into_iter().find(|m| m.is_dir());
    let modules = modules.with_context(|| format!("there are no modules below {}", dir.display()))?;
    let mut releases = fs::read_dir(&modules).with_context(|| format!("reading {}", modules.display()))?;
    let first = releases.next().with_context(|| format!("{} is empty", modules.display()))??;
    let release = first.file_name().to_string_lossy().into_owned();
    let package =
        fs::read_to_string(dir.join("packages")).context("reading which kernel package is in the cache")?;
    let vmlinuz = dir.join("boot").join(format!("vmlinuz-{release}"));
    fs::metadata(&vmlinuz).with_context(|| format!("looking for {}", vmlinuz.display()))?;
    Ok(Kernel { modules: first.path(), release, vmlinuz, package: package.trim().to_owned(), dir })
}

/// Gets the bzImage of the kernel of backports, some releases newer; its small build for virtual machines.
///
/// # Errors
/// If it cannot be had.
pub fn newer(cache: &Cache) -> Result<PathBuf> {
    let package = format!("linux-image-cloud-amd64/{RELEASE}-backports");
    let dir = cache.entry("kernel", &Key::new("newer 1").field(&package), |dir| {
        unpack(cache, &package, &["./boot/vmlinuz-*"], dir).map(drop)
    })?;
    let boot = dir.join("boot");
    let mut files = fs::read_dir(&boot).with_context(|| format!("reading {}", boot.display()))?;
    Ok(files.next().with_context(|| format!("{} is empty", boot.display()))??.path())
}

/// Unpacks the image that `package` stands for, or only its `parts`; returns the name of the package's file.
fn unpack(cache: &Cache, package: &str, parts: &[&str], dir: &Path) -> Result<Vec<String>> {
    let apt = Apt::open(cache)?;
    let image: Vec<String> =
        apt.closure(&[package], is_image)?.into_iter().filter(|name| is_image(name)).collect();
    apt.unpack(&image, parts, dir, &cache.log("kernel"))
}

/// `linux-image-6.1.0-1-amd64` but not the package that only stands for it.
fn is_image(name: &str) -> bool {
    name.strip_prefix("linux-image-").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_told_from_its_stand_in() {
        assert!(is_image("linux-image-6.1.0-56-amd64"));
        assert!(!is_image("linux-image-amd64") && !is_image("linux-base"));
    }
}

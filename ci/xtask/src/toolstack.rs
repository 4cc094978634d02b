// SPDX-License-Identifier: GPL-3.0-only
//! Builds what runs inside: the `microslice` command against the patched tools, and the guests' static program.

use crate::run;
use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable that names the patched tools' tree to the toolstack's build.
pub const TREE: &str = "MICROSLICE_XEN_TREE";

/// Environment in which cargo can build the toolstack against `tree`.
///
/// # Errors
/// If the tree has no built libraries.
pub fn environment(tree: &Path) -> Result<Vec<(&'static str, OsString)>> {
    let libs = tree.join("tools/libs");
    let items = fs::read_dir(&libs).with_context(|| format!("reading the directory {}", libs.display()))?;
    let mut dirs: Vec<PathBuf> = items.flatten().map(|i| i.path()).filter(|p| p.is_dir()).collect();
    dirs.sort();
    let includes = std::iter::once(tree.join("tools/include"))
        .chain(dirs.iter().map(|d| d.join("include")).filter(|i| i.is_dir()))
        .map(|i| format!("-I{}", i.display()));
    Ok(vec![(TREE, tree.into()), ("BINDGEN_EXTRA_CLANG_ARGS", includes.collect::<Vec<_>>().join(" ").into())])
}

fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |d| root.join(d))
}

/// Builds the `microslice` command for dom0.
///
/// # Errors
/// If cargo fails.
pub fn build(root: &Path, tree: &Path) -> Result<PathBuf> {
    let mut cmd = cargo(root);
    cmd.args(["build", "--release", "--package=microslice"]).envs(environment(tree)?);
    run::shown(cmd.stdout(std::io::stderr())).context("building the toolstack")?;
    found(target_dir(root).join("release/microslice"))
}

/// Builds the guests' program: static, because a guest has no libraries.
///
/// # Errors
/// If cargo fails.
pub fn build_guest(root: &Path) -> Result<PathBuf> {
    // Other flags than the rest: another directory, so that nothing is built twice.
    let (dir, target) = (target_dir(root).join("guest"), "x86_64-unknown-linux-gnu");
    let mut cmd = cargo(root);
    cmd.args(["build", "--release", "--package=microslice-guest", "--target", target, "--target-dir"])
        .arg(&dir);
    cmd.env_remove("CARGO_ENCODED_RUSTFLAGS");
    cmd.env("RUSTFLAGS", "-C target-feature=+crt-static");
    run::shown(cmd.stdout(std::io::stderr())).context("building the guests' program")?;
    found(dir.join(target).join("release/microslice-guest"))
}

fn found(path: PathBuf) -> Result<PathBuf> {
    ensure!(path.is_file(), "cargo made no {}", path.display());
    Ok(path)
}

/// The cargo that runs us, at the project's root.
pub fn cargo(root: &Path) -> Command {
    let mut cmd = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cmd.current_dir(root);
    cmd
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_every_library_of_the_tree() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("tools/libs/ctrl/include")).unwrap();
        fs::create_dir_all(tree.path().join("tools/libs/call")).unwrap();
        let env = environment(tree.path()).unwrap();
        let get = |name: &str| env.iter().find(|(n, _)| *n == name).unwrap().1.to_string_lossy().into_owned();
        assert!(get("BINDGEN_EXTRA_CLANG_ARGS").contains("tools/libs/ctrl/include"));
        assert!(!get("BINDGEN_EXTRA_CLANG_ARGS").contains("libs/call/include"));
        assert_eq!(get(TREE), tree.path().to_string_lossy());
        assert!(environment(&tree.path().join("none")).is_err());
    }
}

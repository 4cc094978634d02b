// SPDX-License-Identifier: GPL-3.0-only
//! Xen's source: fetched by checksum, unpacked, patched with zero fuzz, laid into a tree for incremental builds.

use crate::apt::{Apt, SourceFile};
use crate::cache::{Cache, Key, files_below, hex};
use crate::run;
use crate::series::{Base, Patch, orig_version};
use crate::ui;
use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lists the files of the last laying, so that removed ones go.
const MANIFEST: &str = ".microslice-manifest";

/// Where unpatched Xen comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Debian's tarball, named by BASE.
    Debian(Base),
    /// A tree of the user's, which is only read.
    Tree(PathBuf),
}

impl Source {
    /// What tells this source from others.
    ///
    /// # Errors
    /// If the user's tree cannot be read.
    pub fn key(&self) -> Result<Key> {
        match self {
            Self::Debian(base) => Ok(Key::new("debian").field(&base.sha256)),
            Self::Tree(dir) => {
                ensure!(dir.join("xen/Kconfig").is_file(), "{} is not a Xen source tree", dir.display());
                Key::new("tree").files(dir, &tree_files(dir)?)
            }
        }
    }

    /// Writes the unpatched source into the empty directory `dest`.
    ///
    /// # Errors
    /// If it cannot be had or read.
    pub fn unpack(&self, cache: &Cache, dest: &Path) -> Result<()> {
        match self {
            Self::Debian(base) => {
                let tar = tarball(cache, base)?;
                let mut cmd = Command::new("tar");
                cmd.arg("-xf").arg(&tar).arg("--strip-components=1").arg("-C").arg(dest);
                run::output(&mut cmd).map(drop)
            }
            Self::Tree(dir) => lay_files(dir, &tree_files(dir)?, dest),
        }
    }
}

/// The source files of a tree of the user's, without what was built there: what git would show, or all of a tree that
/// was never built.
fn tree_files(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.join(".git").exists() {
        let built = ["xen/.config", "config/Tools.mk"].into_iter().find(|f| dir.join(f).exists());
        if let Some(file) = built {
            bail!(
                "{} has been built ({file} is there): run `make distclean` there, or give a git tree",
                dir.display()
            );
        }
        return files_below(dir);
    }
    let mut cmd = Command::new("git");
    cmd.arg("-C").arg(dir).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let mut files: Vec<PathBuf> = run::output(&mut cmd)?
        .split('\0')
        .map(PathBuf::from)
        .filter(|f| dir.join(f).symlink_metadata().is_ok_and(|m| !m.is_dir()))
        .collect();
    files.sort();
    Ok(files)
}

/// The tarball of `base` from the cache, or from Debian.
fn tarball(cache: &Cache, base: &Base) -> Result<PathBuf> {
    let key = Key::new("tarball").field(&base.sha256);
    let dir = cache.entry("source", &key, |dir| {
        let apt = Apt::open(cache)?;
        let files = apt.source_files(&base.package)?;
        let file = choose(&files, base)?;
        let dest = dir.join(&base.file);
        apt.download(file, &dest, &cache.log("xen-source"))?;
        let sum = sha256(&dest)?;
        ensure!(sum == base.sha256, "{}: SHA-256 is {sum}, BASE says {}: refused", base.file, base.sha256);
        Ok(())
    })?;
    Ok(dir.join(&base.file))
}

/// The tarball among a source package's files; a newer version is explained.
fn choose<'a>(files: &'a [SourceFile], base: &Base) -> Result<&'a SourceFile> {
    if let Some(found) = files.iter().find(|f| f.file == base.file) {
        return Ok(found);
    }
    let served = files.iter().find_map(|f| orig_version(&f.file, &base.package));
    bail!(
        "Debian {} now serves Xen {}, but the patches are for {}.\n\
         Either give the old source by `cargo xtask xen build --src DIR` (unpacked from Debian's snapshot archive),\n\
         or move the series: put the new file name and SHA-256 into xen-patches/<version>/BASE, then run\n\
         `cargo xtask patches check`; what no longer applies is named there (xen-patches/README.md says how to rebase).",
        base.suite,
        served.unwrap_or("(no tarball at all)"),
        base.version()
    )
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut sum = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).with_context(|| format!("reading {}", path.display()))?;
        if n == 0 {
            return Ok(hex(&sum.finalize()));
        }
        sum.update(&buffer[..n]);
    }
}

/// Applies `patches` in order to `tree` with zero fuzz. Hunks that moved are named as warnings and returned.
///
/// # Errors
/// If a hunk does not apply; the error names the patch and the hunks.
pub fn apply(tree: &Path, patches: &[Patch]) -> Result<Vec<String>> {
    let mut moved = Vec::new();
    for patch in patches {
        let mut cmd = Command::new("patch");
        cmd.args(["-p1", "-F0", "-N", "--batch", "--no-backup-if-mismatch", "-d"]).arg(tree);
        let out = cmd.arg("-i").arg(&patch.path).env("LC_ALL", "C").output().context("starting `patch`")?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(
            out.status.success(),
            "applying {} with zero fuzz: {}{}",
            patch.path.display(),
            text,
            String::from_utf8_lossy(&out.stderr)
        );
        for (file, hunk) in offsets(&text) {
            moved.push(format!("{}: {file}: {hunk}", patch.name));
        }
    }
    for line in &moved {
        ui::warn(line);
    }
    Ok(moved)
}

/// Hunks that applied at another line, with their file.
fn offsets(text: &str) -> Vec<(String, String)> {
    let mut file = String::new();
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("patching file ") {
            name.clone_into(&mut file);
        } else if line.contains("(offset ") || line.contains("fuzz") {
            found.push((file.clone(), line.to_owned()));
        }
    }
    found
}

/// Makes the files of `from` appear in `to`: only what differs is written, so that `make` sees only real changes;
/// what an earlier laying wrote and `from` has no more is removed; what was built there stays.
///
/// # Errors
/// If a file cannot be read or written.
pub fn lay(from: &Path, to: &Path) -> Result<()> {
    lay_files(from, &files_below(from)?, to)
}

fn lay_files(from: &Path, files: &[PathBuf], to: &Path) -> Result<()> {
    let manifest = to.join(MANIFEST);
    let before = fs::read_to_string(&manifest).unwrap_or_default();
    let now: BTreeSet<&str> = files.iter().filter_map(|f| f.to_str()).collect();
    for gone in before.lines().filter(|l| !now.contains(l)) {
        let _ = fs::remove_file(to.join(gone));
    }
    for file in files {
        let (source, dest) = (from.join(file), to.join(file));
        lay_file(&source, &dest).with_context(|| format!("writing {}", dest.display()))?;
    }
    let list = now.into_iter().collect::<Vec<_>>().join("\n");
    fs::write(&manifest, list).with_context(|| format!("writing {}", manifest.display()))
}

fn lay_file(source: &Path, dest: &Path) -> Result<()> {
    if source.is_symlink() {
        let target = fs::read_link(source)?;
        if fs::read_link(dest).ok().as_ref() != Some(&target) {
            let _ = fs::remove_file(dest);
            fs::create_dir_all(dest.parent().unwrap_or(dest))?;
            std::os::unix::fs::symlink(target, dest)?;
        }
        return Ok(());
    }
    let (mode, old) = (fs::metadata(source)?, fs::metadata(dest));
    let same = old.is_ok_and(|o| o.len() == mode.len() && o.permissions() == mode.permissions())
        && fs::read(source)? == fs::read(dest)?;
    if !same {
        fs::create_dir_all(dest.parent().unwrap_or(dest))?;
        let _ = fs::remove_file(dest);
        fs::write(dest, fs::read(source)?)?;
        fs::set_permissions(dest, mode.permissions())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> SourceFile {
        SourceFile { uri: format!("http://m/{name}"), file: name.into(), hash: String::new() }
    }

    fn base() -> Base {
        let file = "xen_4.20.3.orig.tar.xz".into();
        Base { suite: "trixie".into(), package: "xen".into(), file, sha256: "0".repeat(64) }
    }

    #[test]
    fn a_newer_source_is_explained() {
        assert!(choose(&[file("xen_4.20.3-1.dsc"), file("xen_4.20.3.orig.tar.xz")], &base()).is_ok());
        let error = choose(&[file("xen_4.20.4.orig.tar.xz")], &base()).unwrap_err().to_string();
        for part in ["4.20.4", "4.20.3", "--src", "patches check"] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn moved_hunks_are_seen() {
        let text = "patching file xen/a.c\nHunk #2 succeeded at 7 (offset 3 lines).\npatching file xen/b.c\n";
        assert_eq!(offsets(text), [("xen/a.c".into(), "Hunk #2 succeeded at 7 (offset 3 lines).".into())]);
    }

    #[test]
    fn fuzz_is_refused_and_offsets_are_reported() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let path = dir.path().join("p.patch");
        fs::write(&path, "--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n").unwrap();
        let patch = Patch { name: "p.patch".into(), text: fs::read_to_string(&path).unwrap(), path };
        fs::write(tree.join("f"), "zero\none\ntwo\nthree\n").unwrap();
        assert_eq!(apply(&tree, std::slice::from_ref(&patch)).unwrap().len(), 1);
        fs::write(tree.join("f"), "ONE\ntwo\nthree\n").unwrap();
        assert!(apply(&tree, &[patch]).unwrap_err().to_string().contains("p.patch"));
    }

    #[test]
    fn what_was_built_in_a_users_tree_is_no_source() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("xen")).unwrap();
        fs::write(dir.path().join("xen/Kconfig"), "").unwrap();
        assert_eq!(tree_files(dir.path()).unwrap(), [PathBuf::from("xen/Kconfig")]);
        fs::write(dir.path().join("xen/.config"), "").unwrap();
        assert!(tree_files(dir.path()).unwrap_err().to_string().contains("distclean"));
        fs::write(dir.path().join(".gitignore"), ".config\n").unwrap();
        run::output(Command::new("git").arg("-C").arg(dir.path()).args(["init", "--quiet"])).unwrap();
        let files = tree_files(dir.path()).unwrap();
        assert!(files.contains(&"xen/Kconfig".into()) && !files.contains(&"xen/.config".into()), "{files:?}");
    }

    #[test]
    fn laying_touches_only_what_differs_and_keeps_what_was_built() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("sub/a"), "1").unwrap();
        fs::write(from.join("b"), "1").unwrap();
        lay(&from, &to).unwrap();
        fs::write(to.join("sub/a.o"), "built").unwrap();
        let stamp = || fs::metadata(to.join("b")).unwrap().modified().unwrap();
        let first = stamp();
        fs::remove_file(from.join("sub/a")).unwrap();
        lay(&from, &to).unwrap();
        assert!(!to.join("sub/a").exists() && to.join("sub/a.o").exists());
        assert_eq!(first, stamp());
    }
}

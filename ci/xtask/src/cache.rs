// SPDX-License-Identifier: GPL-3.0-only
//! The user's cache: `$XDG_CACHE_HOME/microslice` (or `~/.cache/microslice`), safe to delete at any time.
//!
//! - An entry's name is the SHA-256 of everything that went into it, so it is never out of date.
//! - An entry appears whole or not at all: it is made aside and renamed, or, for a tree whose files hold
//!   their own place, made in place and marked last.
//! - Who makes an entry holds its lock; a second run waits for it and finds it ready.
//! - `work/` holds trees for incremental builds. They are never results; results are copied out.

use crate::ui;
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Marks an entry as whole.
const COMPLETE: &str = ".complete";

/// No run takes so long.
const LEFT_OVER: Duration = Duration::from_secs(24 * 3600);

/// The root of the cache.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// Holds a lock of the cache until dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing the file releases the lock")] File);

/// The SHA-256 of an entry's inputs; each field is prefixed with its length, so fields cannot run together.
#[derive(Debug, Clone)]
pub struct Key(Sha256);

impl Key {
    /// A key for `what`, usually the name and format version of the recipe.
    pub fn new(what: &str) -> Self {
        Self(Sha256::new()).field(what.as_bytes())
    }

    /// Adds one input.
    #[must_use]
    pub fn field(mut self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds the names and contents of all files below `dir`; `.git` and `target` are left out.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn tree(self, dir: &Path) -> Result<Self> {
        self.files(dir, &files_below(dir)?)
    }

    /// Adds the names and contents of `files`, which are relative to `dir`.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn files(mut self, dir: &Path, files: &[PathBuf]) -> Result<Self> {
        for path in files {
            let full = dir.join(path);
            let bytes = if full.is_symlink() {
                fs::read_link(&full)?.into_os_string().into_encoded_bytes()
            } else {
                fs::read(&full).with_context(|| format!("reading {}", full.display()))?
            };
            self = self.field(path.as_os_str().as_encoded_bytes()).field(bytes);
        }
        Ok(self)
    }

    /// 24 hexadecimal digits.
    pub fn hex(&self) -> String {
        hex(&self.0.clone().finalize())[..24].to_owned()
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// All files and links below `dir`, relative to it, sorted; `.git` and `target` are left out.
///
/// # Errors
/// If a directory cannot be read.
pub fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut todo = vec![PathBuf::new()];
    let mut found = Vec::new();
    while let Some(sub) = todo.pop() {
        let full = dir.join(&sub);
        for item in
            fs::read_dir(&full).with_context(|| format!("reading the directory {}", full.display()))?
        {
            let item = item?;
            let path = sub.join(item.file_name());
            if item.file_type()?.is_dir() {
                if item.file_name() != ".git" && item.file_name() != "target" {
                    todo.push(path);
                }
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

impl Cache {
    /// Opens the user's cache.
    ///
    /// # Errors
    /// If neither `XDG_CACHE_HOME` nor `HOME` says where it is.
    pub fn open() -> Result<Self> {
        let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let base = match (set("XDG_CACHE_HOME"), set("HOME")) {
            (Some(xdg), _) if xdg.is_absolute() => xdg,
            (_, Some(home)) => home.join(".cache"),
            _ => bail!("finding the cache: neither XDG_CACHE_HOME nor HOME is set"),
        };
        Ok(Self::at(base.join("microslice")))
    }

    /// A cache at `root`.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where logs of long commands go.
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// An empty directory that is gone when the run ends; what killed runs left for a day goes too.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn scratch(&self) -> Result<tempfile::TempDir> {
        let all = self.dir("tmp")?;
        for item in
            fs::read_dir(&all).with_context(|| format!("reading the directory {}", all.display()))?.flatten()
        {
            let age = item.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
            if age.is_some_and(|a| a > LEFT_OVER) {
                remove(&item.path())?;
            }
        }
        tempfile::tempdir_in(&all).with_context(|| format!("creating a directory in {}", all.display()))
    }

    /// A place that keeps state between runs; hold a [`Cache::lock`] of the same name while using it.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.root.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(dir)
    }

    /// Takes the lock `name`, waiting for another run that holds it.
    ///
    /// # Errors
    /// If the lock file cannot be created or locked.
    pub fn lock(&self, name: &str) -> Result<Lock> {
        let path = self.dir("locks")?.join(name.replace('/', "-"));
        let file = File::create(&path).with_context(|| format!("creating the lock {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                ui::say(&format!("waiting for {name}, which another run or part of this one makes"));
                file.lock().with_context(|| format!("locking {}", path.display()))?;
            }
            Err(TryLockError::Error(e)) => {
                return Err(e).with_context(|| format!("locking {}", path.display()));
            }
        }
        Ok(Lock(file))
    }

    fn path(&self, kind: &str, key: &Key) -> PathBuf {
        self.root.join(kind).join(key.hex())
    }

    /// The entry if it is there.
    pub fn find(&self, kind: &str, key: &Key) -> Option<PathBuf> {
        let path = self.path(kind, key);
        path.join(COMPLETE).is_file().then_some(path)
    }

    /// The entry, made by `make` in an empty directory if it is not there yet, then renamed into place.
    ///
    /// # Errors
    /// Those of `make`; nothing is left behind then.
    pub fn entry(&self, kind: &str, key: &Key, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        if let Some(found) = self.find(kind, key) {
            return Ok(found);
        }
        let _lock = self.lock(&format!("{kind}-{}", key.hex()))?;
        if let Some(found) = self.find(kind, key) {
            return Ok(found);
        }
        // Always the same place, so that the rest of a killed run does not stay.
        let aside = self.dir("tmp")?.join(format!("{kind}-{}", key.hex()));
        remove(&aside)?;
        fs::create_dir(&aside).with_context(|| format!("creating {}", aside.display()))?;
        if let Err(error) = make(&aside) {
            remove(&aside)?;
            return Err(error);
        }
        File::create(aside.join(COMPLETE))?;
        let place = self.path(kind, key);
        self.dir(kind)?;
        remove(&place)?;
        fs::rename(&aside, &place)
            .with_context(|| format!("moving {} to {}", aside.display(), place.display()))?;
        Ok(place)
    }

    /// As [`Cache::entry`], for a tree whose files hold its own path: made in place, marked last. A rest of an
    /// interrupted run is removed first.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn entry_in_place(
        &self,
        kind: &str,
        key: &Key,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        if let Some(found) = self.find(kind, key) {
            return Ok(found);
        }
        let _lock = self.lock(&format!("{kind}-{}", key.hex()))?;
        if let Some(found) = self.find(kind, key) {
            return Ok(found);
        }
        let place = self.path(kind, key);
        remove(&place)?;
        fs::create_dir_all(&place).with_context(|| format!("creating {}", place.display()))?;
        make(&place)?;
        File::create(place.join(COMPLETE))?;
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn fields_of_a_key_do_not_run_together() {
        let key = |a: &str, b: &str| Key::new("t").field(a).field(b).hex();
        assert_ne!(key("ab", "c"), key("a", "bc"));
        assert_eq!(key("a", "b"), key("a", "b"));
    }

    #[test]
    fn a_tree_key_sees_names_and_contents() {
        let dir = tempfile::tempdir().unwrap();
        let key = || Key::new("t").tree(dir.path()).unwrap().hex();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/a"), "1").unwrap();
        let first = key();
        fs::write(dir.path().join("sub/a"), "2").unwrap();
        let second = key();
        assert_ne!(first, second);
        fs::rename(dir.path().join("sub/a"), dir.path().join("sub/b")).unwrap();
        assert_ne!(second, key());
    }

    #[test]
    fn a_failed_entry_leaves_nothing_and_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_owned());
        let key = Key::new("t");
        let broken = cache.entry("k", &key, |d| {
            fs::write(d.join("half"), "")?;
            bail!("broken")
        });
        assert!(broken.is_err() && cache.find("k", &key).is_none());
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
        let made = cache.entry("k", &key, |d| Ok(fs::write(d.join("whole"), "")?)).unwrap();
        assert!(made.join("whole").is_file() && !made.join("half").exists());
    }

    #[test]
    fn the_rest_of_a_killed_run_goes_when_the_entry_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_owned());
        let key = Key::new("t");
        let rest = dir.path().join("tmp").join(format!("k-{}", key.hex()));
        fs::create_dir_all(rest.join("half")).unwrap();
        let made = cache.entry("k", &key, |_| Ok(())).unwrap();
        assert!(!made.join("half").exists() && !rest.exists());
        let scratch = cache.scratch().unwrap();
        let old = scratch.path().with_file_name("old");
        fs::create_dir(&old).unwrap();
        File::open(&old).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let _second = cache.scratch().unwrap();
        assert!(scratch.path().exists() && !old.exists());
    }

    #[test]
    fn an_interrupted_tree_is_removed_before_it_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_owned());
        let key = Key::new("t");
        assert!(
            cache
                .entry_in_place("k", &key, |d| {
                    fs::write(d.join("half"), "")?;
                    bail!("killed")
                })
                .is_err()
        );
        assert!(cache.find("k", &key).is_none());
        let made = cache.entry_in_place("k", &key, |_| Ok(())).unwrap();
        assert!(!made.join("half").exists());
    }

    #[test]
    fn parallel_runs_make_an_entry_once() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_owned());
        let made = AtomicU32::new(0);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    cache.entry("k", &Key::new("t"), |_| {
                        made.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(std::time::Duration::from_millis(50));
                        Ok(())
                    })
                });
            }
        });
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }
}

// SPDX-License-Identifier: GPL-3.0-only
//! Debian's archive, by the machine's own apt but with a private configuration.
//!
//! - Mirrors and keys are those that the machine's apt already uses; nothing here names a host.
//! - Lists and downloads live in the user's cache. The machine's sources and lists are never changed.
//! - apt checks signatures and checksums; nothing is taken that it refuses.

use crate::cache::Cache;
use crate::run;
use crate::ui;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The Debian release that the product is built on.
pub const RELEASE: &str = "bookworm";
/// The release that has Xen's source.
const SOURCE_RELEASE: &str = "trixie";
/// How old the private lists may be before a new package is looked up, in seconds.
const LISTS_AGE: u64 = 24 * 3600;

/// A place that the machine's apt gets packages from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    uri: String,
    release: String,
    /// File and number of the entry, `FILE:N`.
    entry: String,
}

/// apt with the private configuration.
#[derive(Debug)]
pub struct Apt {
    dir: PathBuf,
}

/// A file of a source package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Where apt would get it.
    pub uri: String,
    /// Its name.
    pub file: String,
    /// Its checksum as `SHA256:...`, empty if apt says none.
    pub hash: String,
}

impl Apt {
    /// Writes the private configuration and gets its lists if they are missing or old.
    ///
    /// # Errors
    /// If this is not the Debian release that the product knows, or apt fails.
    pub fn open(cache: &Cache) -> Result<Self> {
        let _lock = cache.lock("apt")?;
        let apt = Self { dir: cache.dir("apt")? };
        let sources = apt.derive_sources()?;
        let file = apt.dir.join("sources.list.d/microslice.sources");
        let changed = fs::read_to_string(&file).ok().as_deref() != Some(sources.as_str());
        if changed || !apt.lists_fresh() {
            for sub in ["sources.list.d", "lists/partial", "archives/partial"] {
                fs::create_dir_all(apt.dir.join(sub))
                    .with_context(|| format!("creating {}/{sub}", apt.dir.display()))?;
            }
            fs::write(&file, sources).with_context(|| format!("writing {}", file.display()))?;
            let log = cache.log("apt");
            run::logged(
                apt.command("apt-get").arg("update"),
                "apt: getting the lists of Debian's packages",
                &log,
            )?;
            fs::write(apt.dir.join("updated"), "")?;
        }
        Ok(apt)
    }

    fn lists_fresh(&self) -> bool {
        let made = fs::metadata(self.dir.join("updated")).and_then(|m| m.modified());
        made.is_ok_and(|t| t.elapsed().is_ok_and(|age| age.as_secs() < LISTS_AGE))
    }

    fn derive_sources(&self) -> Result<String> {
        let text = run::output(Command::new("apt-get").args(["indextargets", "Created-By: Packages"]))
            .context("asking apt where the machine's packages come from")?;
        let targets = parse_targets(&text);
        let key = |t: &Target| {
            let file = t.entry.rsplit_once(':').map_or(t.entry.as_str(), |(file, _)| file);
            fs::read_to_string(file).ok().and_then(|text| signed_by(&text, &t.uri))
        };
        private_sources(&targets, key)
    }

    /// `program` of apt with the private configuration.
    fn command(&self, program: &str) -> Command {
        let mut cmd = Command::new(program);
        self.configure(&mut cmd);
        cmd
    }

    fn configure(&self, cmd: &mut Command) {
        cmd.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
        for (name, value) in [
            ("Dir::Etc::sourcelist", "/dev/null".into()),
            ("Dir::Etc::sourceparts", self.dir.join("sources.list.d")),
            ("Dir::State::lists", self.dir.join("lists")),
            ("Dir::Cache", self.dir.clone()),
            ("Dir::Cache::archives", self.dir.join("archives")),
        ] {
            cmd.arg("-o").arg(format!("{name}={}", value.display()));
        }
        // The cache may be below a home that apt's own user cannot read.
        cmd.args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3"]);
    }

    /// The newest version of `packages`, each NAME or NAME/RELEASE, and, of what they need, those whose names pass `wanted`.
    ///
    /// # Errors
    /// If apt knows one of them not.
    pub fn closure(&self, packages: &[&str], wanted: fn(&str) -> bool) -> Result<Vec<String>> {
        let mut cmd = self.command("apt-get");
        cmd.args([
            "-o",
            "Dir::State::status=/dev/null",
            "--print-uris",
            "--yes",
            "--no-install-recommends",
            "install",
        ]);
        let text =
            run::output(cmd.args(packages)).with_context(|| format!("resolving {}", packages.join(", ")))?;
        let asked: Vec<&str> = packages.iter().filter_map(|package| package.split('/').next()).collect();
        let mut names: Vec<String> = parse_uris(&text)
            .iter()
            .filter_map(|f| f.file.split_once('_').map(|(name, _)| name.to_owned()))
            .filter(|name| asked.contains(&name.as_str()) || wanted(name))
            .collect();
        names.sort();
        if let Some(missing) = asked.iter().find(|p| !names.iter().any(|n| n == *p)) {
            bail!("resolving {}: apt did not offer {missing}", packages.join(", "));
        }
        Ok(names)
    }

    /// Downloads `packages` and unpacks them below `dest`, or only what matches `parts` (tar's wildcards) if there are
    /// any; returns the names of the packages' files.
    ///
    /// # Errors
    /// If a download or unpacking fails.
    pub fn unpack(
        &self,
        packages: &[String],
        parts: &[&str],
        dest: &Path,
        log: &Path,
    ) -> Result<Vec<String>> {
        let debs = tempfile::tempdir_in(&self.dir)?;
        let mut cmd = self.command("apt-get");
        cmd.arg("download").args(packages).current_dir(debs.path());
        run::logged(&mut cmd, &format!("apt: downloading {}", packages.join(", ")), log)?;
        let mut names = Vec::new();
        for item in fs::read_dir(debs.path())? {
            let path = item?.path();
            unpack_file(&path, parts, dest)?;
            names.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// The files of the newest version of the source package `name`.
    ///
    /// # Errors
    /// If apt knows no such source package.
    pub fn source_files(&self, name: &str) -> Result<Vec<SourceFile>> {
        // In an empty directory: apt leaves out what lies there already.
        let empty = tempfile::tempdir()?;
        let mut cmd = self.command("apt-get");
        cmd.args(["--print-uris", "--download-only", "source", name]).current_dir(empty.path());
        let text = run::output(&mut cmd).with_context(|| format!("looking up the source package {name}"))?;
        Ok(parse_uris(&text))
    }

    /// Downloads one file; apt checks its hash.
    ///
    /// # Errors
    /// If the download fails or the hash differs.
    pub fn download(&self, file: &SourceFile, dest: &Path, log: &Path) -> Result<()> {
        let mut cmd = self.command("/usr/lib/apt/apt-helper");
        cmd.arg("download-file").arg(&file.uri).arg(dest);
        if !file.hash.is_empty() {
            cmd.arg(&file.hash);
        }
        run::logged(&mut cmd, &format!("apt: downloading {}", file.file), log)
    }

    /// Installs `packages` from backports on the machine, as root or by sudo.
    ///
    /// # Errors
    /// If apt fails or would have to remove something.
    pub fn install_backports(&self, packages: &[String]) -> Result<()> {
        let root = run::output(Command::new("id").arg("-u"))?.trim() == "0";
        let mut cmd = Command::new(if root { "apt-get" } else { "sudo" });
        if !root {
            cmd.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        }
        self.configure(&mut cmd);
        cmd.args(["--yes", "--no-remove", "--no-install-recommends", "-q", "-o", "Dpkg::Use-Pty=0"]);
        cmd.args(["-o", "DPkg::Lock::Timeout=300", "--target-release"]).arg(format!("{RELEASE}-backports"));
        ui::say(&format!("apt: installing {} from {RELEASE}-backports", packages.join(", ")));
        run::shown(cmd.arg("install").args(packages).stdout(std::io::stderr()))
    }
}

fn unpack_file(deb: &Path, parts: &[&str], dest: &Path) -> Result<()> {
    let name = || format!("unpacking {}", deb.display());
    let mut dpkg = Command::new("dpkg-deb");
    dpkg.arg("--fsys-tarfile").arg(deb).stdout(Stdio::piped());
    let mut dpkg = dpkg.spawn().with_context(name)?;
    let mut tar = Command::new("tar");
    tar.args(["-x", "--wildcards", "-C"]).arg(dest).args(parts);
    let from = dpkg.stdout.take().with_context(name)?;
    let unpacked = tar.stdin(from).status().with_context(name)?;
    ensure!(dpkg.wait().with_context(name)?.success() && unpacked.success(), "{}: it failed", name());
    Ok(())
}

fn parse_targets(text: &str) -> Vec<Target> {
    let mut found: Vec<Target> = Vec::new();
    for stanza in text.split("\n\n") {
        let get = |name: &str| stanza.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim().to_owned());
        let all = (get("Repo-URI:"), get("Release:"), get("Sourcesentry:"));
        if let (Some(uri), Some(release), Some(entry)) = all {
            let target = Target { uri, release, entry };
            if !found.contains(&target) {
                found.push(target);
            }
        }
    }
    found
}

/// The `Signed-By` of the entry for `uri` in the text of a sources file, of either form. A key written into the
/// file itself keeps its continuation lines.
fn signed_by(text: &str, uri: &str) -> Option<String> {
    let bare = uri.trim_end_matches('/');
    let names = |words: &str| words.split_whitespace().any(|w| w.trim_end_matches('/') == bare);
    for stanza in text.split("\n\n") {
        let lines: Vec<&str> = stanza.lines().collect();
        let uris = lines.iter().find_map(|l| l.strip_prefix("URIs:"));
        if let (Some(at), true) =
            (lines.iter().position(|l| l.starts_with("Signed-By:")), uris.is_some_and(names))
        {
            let more = lines[at + 1..].iter().take_while(|l| l.starts_with([' ', '\t']));
            let first = lines[at]["Signed-By:".len()..].trim();
            return Some(std::iter::once(first).chain(more.copied()).collect::<Vec<_>>().join("\n"));
        }
    }
    let line = text.lines().find(|l| l.starts_with("deb") && names(l) && l.contains("signed-by="))?;
    let value = line.split("signed-by=").nth(1)?;
    Some(value.split([' ', ']']).next()?.to_owned())
}

/// The private sources: the machine's release with its security archive, backports, and Xen's source.
fn private_sources(targets: &[Target], key: impl Fn(&Target) -> Option<String>) -> Result<String> {
    let find = |release: &str| targets.iter().find(|t| t.release == release);
    let Some(main) = find(RELEASE) else {
        let seen: Vec<&str> = targets.iter().map(|t| t.release.as_str()).collect();
        bail!(
            "this machine's apt has no source for Debian {RELEASE} (it has: {}): Microslice is built on {RELEASE}",
            if seen.is_empty() { "none".to_owned() } else { seen.join(", ") }
        );
    };
    let security = find(&format!("{RELEASE}-security")).with_context(|| {
        format!("this machine's apt has no source for {RELEASE}-security, which has the Rust compiler for the hypervisor")
    })?;
    let stanza = |types: &str, target: &Target, suites: &str| {
        let signed = key(target).map(|k| format!("Signed-By: {k}\n")).unwrap_or_default();
        format!("Types: {types}\nURIs: {}\nSuites: {suites}\nComponents: main\n{signed}\n", target.uri)
    };
    let suites = format!("{RELEASE} {RELEASE}-updates {RELEASE}-backports");
    Ok([
        stanza("deb", main, &suites),
        stanza("deb", security, &format!("{RELEASE}-security")),
        stanza("deb-src", main, SOURCE_RELEASE),
    ]
    .concat())
}

/// The lines `'URI' FILE SIZE [HASH]` among apt's output.
fn parse_uris(text: &str) -> Vec<SourceFile> {
    let line = |l: &str| {
        let (uri, rest) = l.strip_prefix('\'')?.split_once("' ")?;
        let mut words = rest.split_whitespace();
        let (file, _size) = (words.next()?, words.next()?);
        let hash = words.next().unwrap_or_default();
        Some(SourceFile { uri: uri.to_owned(), file: file.to_owned(), hash: hash.to_owned() })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(uri: &str, release: &str) -> Target {
        Target { uri: uri.into(), release: release.into(), entry: "/etc/x.sources:1".into() }
    }

    #[test]
    fn targets_are_read_from_apt() {
        let text = "MetaKey: main/binary-amd64/Packages\nRelease: bookworm\nRepo-URI: http://mirror/debian/\n\
            Sourcesentry: /etc/a.sources:1\n\nRelease: bookworm\nRepo-URI: http://mirror/debian/\nSourcesentry: /etc/a.sources:1\n";
        let want = Target {
            uri: "http://mirror/debian/".into(),
            release: "bookworm".into(),
            entry: "/etc/a.sources:1".into(),
        };
        assert_eq!(parse_targets(text), [want]);
    }

    #[test]
    fn the_key_is_that_of_the_same_mirror() {
        let deb822 = "Types: deb\nURIs: http://other\nSigned-By: /o.gpg\n\nTypes: deb\nURIs: http://m/debian\n\
            Signed-By: /usr/k.gpg\nSuites: x\n";
        assert_eq!(signed_by(deb822, "http://m/debian/").unwrap(), "/usr/k.gpg");
        let inline = "URIs: http://m/\nSigned-By:\n -----BEGIN\n .\n xyz\nSuites: x\n";
        assert_eq!(signed_by(inline, "http://m/").unwrap(), "\n -----BEGIN\n .\n xyz");
        let one_line = "deb [arch=amd64 signed-by=/k.gpg] http://m/debian bookworm main\n";
        assert_eq!(signed_by(one_line, "http://m/debian/").unwrap(), "/k.gpg");
        assert_eq!(signed_by("deb http://m/debian bookworm main\n", "http://m/debian/"), None);
    }

    #[test]
    fn private_sources_add_backports_and_the_source_release_on_the_machines_mirror() {
        let targets = [target("http://m/debian/", "bookworm"), target("http://s/sec/", "bookworm-security")];
        let text = private_sources(&targets, |t| (t.release == "bookworm").then(|| "/k.gpg".into())).unwrap();
        assert!(
            text.contains("URIs: http://m/debian/\nSuites: bookworm bookworm-updates bookworm-backports\n"),
            "{text}"
        );
        assert!(text.contains(
            "Types: deb-src\nURIs: http://m/debian/\nSuites: trixie\nComponents: main\nSigned-By: /k.gpg\n"
        ));
        assert!(
            text.contains("URIs: http://s/sec/\nSuites: bookworm-security\nComponents: main\n\n"),
            "{text}"
        );
    }

    #[test]
    fn another_release_is_refused_by_name() {
        let error = private_sources(&[target("http://m", "sid")], |_| None).unwrap_err().to_string();
        assert!(error.contains("bookworm") && error.contains("sid"), "{error}");
    }

    #[test]
    fn uris_are_read_with_and_without_hash() {
        let text =
            "Need to get 1 B\n'http://m/a%2b1.deb' a+1.deb 5 SHA256:00\n'http://m/b.deb' b_1_all.deb 7 \n";
        let files = parse_uris(text);
        assert_eq!((files[0].file.as_str(), files[0].hash.as_str()), ("a+1.deb", "SHA256:00"));
        assert_eq!((files[1].uri.as_str(), files[1].hash.as_str()), ("http://m/b.deb", ""));
    }
}

// SPDX-License-Identifier: GPL-3.0-only
//! `xen-patches/<version>`: BASE (which source), series (which patches, in which order) and the patches.
//!
//! A patch counts by what it changes in which file, so that a change of the hypervisor alone keeps the tools.

use crate::cache::Key;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// The source that a series applies to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Debian suite whose source package has it.
    pub suite: String,
    /// Name of the source package.
    pub package: String,
    /// The tarball's name.
    pub file: String,
    /// Its checksum, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

impl Base {
    fn parse(text: &str) -> Result<Self> {
        let get = |name: &str| {
            let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')).map(str::trim);
            value.map(str::to_owned).with_context(|| format!("there is no line `{name} ...`"))
        };
        let base = Self {
            suite: get("suite")?,
            package: get("package")?,
            file: get("file")?,
            sha256: get("sha256")?,
        };
        ensure!(
            base.sha256.len() == 64 && base.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
            "sha256 is not 64 lower-case hexadecimal digits: {}",
            base.sha256
        );
        Ok(base)
    }

    /// The upstream version inside the tarball's name.
    pub fn version(&self) -> &str {
        orig_version(&self.file, &self.package).unwrap_or(&self.file)
    }
}

/// `4.20.3` of `xen_4.20.3.orig.tar.xz`.
pub fn orig_version<'a>(file: &'a str, package: &str) -> Option<&'a str> {
    let rest = file.strip_prefix(package)?.strip_prefix('_')?;
    Some(rest.split_once(".orig.tar.")?.0)
}

/// One patch of a series.
#[derive(Debug, Clone)]
pub struct Patch {
    /// File name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

impl Patch {
    fn read(path: PathBuf) -> Result<Self> {
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading the patch {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let patch = Self { name, path, text };
        ensure!(!patch.files().is_empty(), "the patch {} changes no file", patch.path.display());
        Ok(patch)
    }

    /// The text of each changed file's part and the file's name.
    pub fn sections(&self) -> Vec<(&str, &str)> {
        let starts: Vec<usize> = section_starts(&self.text);
        let ends = starts.iter().skip(1).copied().chain([self.text.len()]);
        let parts = starts.iter().zip(ends).map(|(&a, b)| &self.text[a..b]);
        parts.filter_map(|part| Some((section_file(part)?, part))).collect()
    }

    /// Names of the changed files.
    pub fn files(&self) -> Vec<&str> {
        self.sections().into_iter().map(|(file, _)| file).collect()
    }

    /// Whether it changes anything that the hypervisor is built from.
    pub fn touches_hypervisor(&self) -> bool {
        self.files().into_iter().any(for_hypervisor)
    }

    /// Whether it changes anything that the tools are built from.
    pub fn touches_tools(&self) -> bool {
        self.files().into_iter().any(for_tools)
    }
}

/// Offsets where a file's part begins: `diff --git`, or `--- ` followed by `+++ ` in a plain diff.
fn section_starts(text: &str) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut at = 0;
    let mut in_git = false;
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for (i, line) in lines.iter().enumerate() {
        let next = lines.get(i + 1).copied().unwrap_or_default();
        if line.starts_with("diff --git ") {
            starts.push(at);
            in_git = true;
        } else if !in_git && line.starts_with("--- ") && next.starts_with("+++ ") {
            starts.push(at);
        }
        at += line.len();
    }
    starts
}

/// The file that a part changes; for a removed file its old name.
fn section_file(part: &str) -> Option<&str> {
    let name = |mark: &str| {
        let line = part.lines().find_map(|l| l.strip_prefix(mark))?;
        let path = line.split('\t').next()?.trim();
        path.split_once('/').map(|(_, rest)| rest).filter(|_| path != "/dev/null")
    };
    let renamed = || part.lines().find_map(|l| l.strip_prefix("rename to "));
    name("+++ ").or_else(|| name("--- ")).or_else(renamed)
}

/// Whether the hypervisor's build reads `file`.
pub fn for_hypervisor(file: &str) -> bool {
    file.starts_with("xen/") || file.starts_with("config/") || file == "Config.mk"
}

/// Whether the build of the tools reads `file`.
pub fn for_tools(file: &str) -> bool {
    const FROM_XEN: &[&str] = &[
        "xen/include/public/",
        "xen/include/acpi/",
        "xen/include/xen/lib/",
        "xen/include/xen/libelf.h",
        "xen/include/xen/elfstructs.h",
        "xen/arch/x86/include/asm/x86-",
        "xen/arch/x86/include/asm/msr-index.h",
        "xen/lib/x86/",
        "xen/tools/",
        "xen/xsm/flask/policy/",
        "xen/Makefile",
        "xen/common/libelf/",
        "xen/common/decompress",
        "xen/common/bunzip2.c",
        "xen/common/lz",
        "xen/common/un",
        "xen/common/xz/",
        "xen/common/zstd/",
    ];
    let documents = ["docs/", "automation/", "stubdom/"];
    if file.starts_with("xen/") {
        FROM_XEN.iter().any(|p| file.starts_with(p))
    } else {
        !documents.iter().any(|d| file.starts_with(d))
    }
}

/// A version's whole directory, read and checked.
#[derive(Debug, Clone)]
pub struct Series {
    /// The directory.
    pub dir: PathBuf,
    /// What it applies to.
    pub base: Base,
    /// The product's patches in order.
    pub patches: Vec<Patch>,
    /// Patches that only the emulated machine needs, in order of name.
    pub lab: Vec<Patch>,
}

impl Series {
    /// Reads `xen-patches/<version>` below `root`.
    ///
    /// # Errors
    /// If the version is unknown, a listed patch is missing or a patch is not listed.
    pub fn read(root: &Path, version: &str) -> Result<Self> {
        let all = root.join("xen-patches");
        let dir = all.join(version);
        if !dir.join("BASE").is_file() {
            let known = versions(&all).join(", ");
            bail!("there is no series for Xen {version}; xen-patches has: {known}");
        }
        let text = fs::read_to_string(dir.join("BASE"))
            .with_context(|| format!("reading {}", dir.join("BASE").display()))?;
        let base = Base::parse(&text).with_context(|| format!("reading {}", dir.join("BASE").display()))?;
        let list = dir.join("series");
        let text = fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
        let names = parse_series(&text).with_context(|| format!("reading {}", list.display()))?;
        let present = patches_in(&dir)?;
        if let Some(stray) = present.iter().find(|p| !names.contains(p)) {
            bail!("{stray} is in {} but not in its series file", dir.display());
        }
        let patches = names.iter().map(|n| Patch::read(dir.join(n))).collect::<Result<_>>()?;
        let lab_dir = dir.join("lab");
        let lab = if lab_dir.is_dir() { patches_in(&lab_dir)? } else { Vec::new() };
        let lab = lab.iter().map(|n| Patch::read(lab_dir.join(n))).collect::<Result<_>>()?;
        Ok(Self { dir, base, patches, lab })
    }
}

fn versions(all: &Path) -> Vec<String> {
    let items = fs::read_dir(all).into_iter().flatten().flatten();
    let mut found: Vec<String> = items
        .filter(|i| i.path().join("BASE").is_file())
        .map(|i| i.file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    found
}

fn patches_in(dir: &Path) -> Result<Vec<String>> {
    let items = fs::read_dir(dir).with_context(|| format!("reading the directory {}", dir.display()))?;
    let names =
        items.map(|i| Ok(i?.file_name().to_string_lossy().into_owned())).collect::<Result<Vec<_>>>()?;
    let mut names: Vec<String> = names.into_iter().filter(|n| n.ends_with(".patch")).collect();
    names.sort();
    Ok(names)
}

/// The names in a series file; comments and empty lines are skipped.
fn parse_series(text: &str) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for line in text.lines() {
        let name = line.split(" #").next().unwrap_or_default().trim();
        if name.is_empty() || name.starts_with('#') {
            continue;
        }
        ensure!(name.ends_with(".patch") && !name.contains('/'), "not the name of a patch: {name:?}");
        ensure!(!names.iter().any(|n| n == name), "{name} is listed twice");
        ensure!(names.last().is_none_or(|last| last.as_str() < name), "{name} is out of order: numbers rise");
        names.push(name.to_owned());
    }
    Ok(names)
}

/// Adds to `key` the parts of `patches` that change a file for which `wanted` holds.
pub fn add_sections(mut key: Key, patches: &[Patch], wanted: fn(&str) -> bool) -> Key {
    for patch in patches {
        for (file, part) in patch.sections() {
            if wanted(file) {
                key = key.field(part);
            }
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(text: &str) -> Patch {
        Patch { name: "t.patch".into(), path: "t.patch".into(), text: text.into() }
    }

    const GIT: &str = "Subject: two files\n\ndiff --git a/xen/common/a.c b/xen/common/a.c\n--- a/xen/common/a.c\n\
        +++ b/xen/common/a.c\n@@ -1 +1 @@\n-x\n+--- y\ndiff --git a/tools/xl/b.c b/tools/xl/b.c\nnew file mode 100644\n\
        --- /dev/null\n+++ b/tools/xl/b.c\n@@ -0,0 +1 @@\n+z\n";

    #[test]
    fn a_patch_falls_into_its_files() {
        assert_eq!(patch(GIT).files(), ["xen/common/a.c", "tools/xl/b.c"]);
        let plain = "--- a/xen/x.c\t2020\n+++ b/xen/x.c\t2020\n@@ -1 +1 @@\n-1\n+2\n--- a/xen/y.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-1\n";
        assert_eq!(patch(plain).files(), ["xen/x.c", "xen/y.c"]);
    }

    #[test]
    fn the_tools_do_not_depend_on_hypervisor_sources() {
        let key = |text: &str| add_sections(Key::new("t"), &[patch(text)], for_tools).hex();
        assert_eq!(key(GIT), key(&GIT.replace("-x\n", "-w\n")));
        assert_ne!(key(GIT), key(&GIT.replace("+z\n", "+w\n")));
        assert!(for_tools("xen/include/public/domctl.h") && for_hypervisor("xen/include/public/domctl.h"));
        assert!(!for_tools("xen/common/sched/core.c") && !for_hypervisor("tools/xl/xl.c"));
        assert!(!for_tools("docs/misc/xen-command-line.pandoc"));
    }

    #[test]
    fn a_series_is_ordered_and_has_no_doubles() {
        let good = "# SPDX\n\n0001-a.patch\n0010-b.patch # tools\n";
        assert_eq!(parse_series(good).unwrap(), ["0001-a.patch", "0010-b.patch"]);
        for bad in
            ["0001-a.patch\n0001-a.patch\n", "0002-a.patch\n0001-b.patch\n", "../x.patch\n", "readme\n"]
        {
            assert!(parse_series(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn base_needs_a_whole_checksum() {
        let text =
            |sum: &str| format!("suite trixie\npackage xen\nfile xen_4.20.orig.tar.xz\nsha256 {sum}\n");
        assert_eq!(Base::parse(&text(&"0a".repeat(32))).unwrap().version(), "4.20");
        for bad in ["", "0a", &"0A".repeat(32)] {
            assert!(Base::parse(&text(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_patch_that_is_not_listed_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("xen-patches/4.20");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("BASE"), format!("suite s\npackage p\nfile f\nsha256 {}\n", "0".repeat(64)))
            .unwrap();
        fs::write(dir.join("series"), "0001-a.patch\n").unwrap();
        fs::write(dir.join("0001-a.patch"), GIT).unwrap();
        assert_eq!(Series::read(root.path(), "4.20").unwrap().patches.len(), 1);
        fs::write(dir.join("0002-b.patch"), GIT).unwrap();
        assert!(Series::read(root.path(), "4.20").unwrap_err().to_string().contains("0002-b.patch"));
        assert!(Series::read(root.path(), "4.19").unwrap_err().to_string().contains("4.20"));
    }
}

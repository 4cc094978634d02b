// SPDX-License-Identifier: GPL-3.0-only
//! A kernel's ranges: extracted from an image, or read from a file that `symbols import -o` wrote.
//!
//! The file is YAML or, if its name ends in .json, JSON: `microslice-ranges: 1` (the format), `kernel` (its banner),
//! `entry_SYSCALL_64` and `page_fault` (the anchors that KASLR's slide is computed from), `linux_banner` (where a running
//! kernel has its banner) and `ranges`, each with start, end (exclusive),
//! class and names. Unknown keys are errors.

use crate::hyper::safe::types::Range;
use crate::out::write_whole;
use anyhow::{Context, Result, bail};
use microslice_symtab::kaslr::Anchors;
use microslice_symtab::{Catalog, Explanation, KernelImage, Report};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

/// The format this build writes and reads.
const FORMAT: u32 = 1;
/// The key a range file starts with.
const KEY: &str = "microslice-ranges";
/// No range file is longer: 4096 ranges with many names.
const MAX_BYTES: u64 = 16 << 20;

/// The file's content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeFile {
    #[serde(rename = "microslice-ranges")]
    format: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kernel: Option<String>,
    #[serde(rename = "entry_SYSCALL_64", default, skip_serializing_if = "Option::is_none")]
    syscall: Option<Address>,
    #[serde(rename = "entry_SYSCALL_64_trampoline", default, skip_serializing_if = "std::ops::Not::not")]
    trampoline: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    page_fault: Vec<Address>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    linux_banner: Option<Address>,
    ranges: Vec<microslice_symtab::Range>,
}

/// A kernel's ranges at their link-time addresses.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelRanges {
    /// The kernel's banner, where known.
    pub kernel: Option<String>,
    /// Where its banner is, where known.
    pub banner_at: Option<u64>,
    /// Where its entry points are, as far as known.
    pub anchors: Anchors,
    /// Sorted, disjoint ranges.
    pub ranges: Vec<microslice_symtab::Range>,
    /// What was found in the image; none from a range file.
    pub report: Option<Report>,
}

/// The built-in catalogue, or that with the rows of a YAML file put over it.
pub fn catalog(path: Option<&Path>) -> Result<Catalog> {
    let Some(path) = path else { return Ok(Catalog::builtin()) };
    let name = path.display().to_string();
    let text = fs::read_to_string(path).with_context(|| format!("read catalogue {name}"))?;
    Ok(Catalog::builtin().with(Catalog::from_yaml(&name, &text).map_err(flat)?))
}

/// symtab's messages hold their causes already: without this the chain would be printed twice.
pub fn flat(error: microslice_symtab::Error) -> anyhow::Error {
    anyhow::Error::msg(error.to_string())
}

/// Why an address of a kernel image has its class.
pub fn explain(path: &Path, catalog: &Catalog, address: u64) -> Result<Explanation> {
    if is_range_file(path).with_context(|| format!("read {}", path.display()))? {
        bail!(
            "explain an address of {}: it is a range file, which has no symbols; name the kernel image",
            path.display()
        );
    }
    Ok(KernelImage::open(path).map_err(flat)?.explain(catalog, address))
}

impl KernelRanges {
    /// From a kernel image or a range file, told apart by content.
    pub fn load(path: &Path, catalog: &Catalog) -> Result<KernelRanges> {
        if is_range_file(path).with_context(|| format!("read {}", path.display()))? {
            return KernelRanges::from_file(path)
                .with_context(|| format!("read range file {}", path.display()));
        }
        KernelRanges::from_image(path, catalog)
    }

    /// From a kernel image.
    pub fn from_image(path: &Path, catalog: &Catalog) -> Result<KernelRanges> {
        let image = KernelImage::open(path).map_err(flat)?;
        let ranges = image.ranges(catalog);
        if ranges.is_empty() {
            bail!("{}: a kernel, but it has none of the catalogued symbols", path.display());
        }
        Ok(KernelRanges {
            kernel: image.version_banner().map(|banner| banner.trim().to_owned()),
            banner_at: image.identity().banner_at,
            anchors: Anchors::of(&image),
            ranges: ranges.as_slice().to_vec(),
            report: Some(ranges.report().clone()),
        })
    }

    fn from_file(path: &Path) -> Result<KernelRanges> {
        let mut text = String::new();
        File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_BYTES {
            bail!("longer than {MAX_BYTES} bytes");
        }
        KernelRanges::parse(&text, is_json(path))
    }

    fn parse(text: &str, json: bool) -> Result<KernelRanges> {
        let file: RangeFile = if json { serde_json::from_str(text)? } else { serde_yaml::from_str(text)? };
        if file.format != FORMAT {
            bail!("format {} of a range file: this microslice reads {FORMAT}", file.format);
        }
        let anchors = Anchors {
            syscall: file.syscall.map(|a| a.0),
            trampoline: file.trampoline,
            page_fault: file.page_fault.iter().map(|a| a.0).collect(),
        };
        let banner_at = file.linux_banner.map(|a| a.0);
        let loaded =
            KernelRanges { kernel: file.kernel, banner_at, anchors, ranges: file.ranges, report: None };
        crate::hyper::safe::check_ranges(&loaded.plain(0)?).map_err(anyhow::Error::msg)?;
        Ok(loaded)
    }

    /// The ranges for the hypervisor, moved by `slide`. Code of modules does not move with the kernel: only 0 will do.
    pub fn plain(&self, slide: i64) -> Result<Vec<Range>> {
        if slide != 0
            && let Some(range) = self.ranges.iter().find(|range| range.is_live_only())
        {
            return Err(flat(microslice_symtab::Error::LiveOnly { slide, name: range.names.join(" ") }));
        }
        let moved = |address: u64| {
            address
                .checked_add_signed(slide)
                .with_context(|| format!("slide {slide:#x} moves {address:#x} off the end"))
        };
        let plain = |r: &microslice_symtab::Range| {
            Ok(Range { start: moved(r.start)?, end: moved(r.end)?, class: r.class.number() })
        };
        self.ranges.iter().map(plain).collect()
    }

    /// Writes the file as a whole, or leaves what was there.
    pub fn write(&self, path: &Path) -> Result<()> {
        let file = RangeFile {
            format: FORMAT,
            kernel: self.kernel.clone(),
            syscall: self.anchors.syscall.map(Address),
            trampoline: self.anchors.trampoline,
            page_fault: self.anchors.page_fault.iter().copied().map(Address).collect(),
            linux_banner: self.banner_at.map(Address),
            ranges: self.ranges.clone(),
        };
        let text = if is_json(path) {
            serde_json::to_string_pretty(&file)? + "\n"
        } else {
            serde_yaml::to_string(&file)?
        };
        write_whole(path, |file| Ok(file.write_all(text.as_bytes())?))
    }
}

/// In the file a string "0x...", since a JSON reader may round large numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Address(pub u64);

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        struct Digits;
        impl Visitor<'_> for Digits {
            type Value = Address;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, 0x and hex digits")
            }
            // Refused here and not later: only so do errors say where in the file it is.
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Address, E> {
                let digits = text.strip_prefix("0x").filter(|digits| !digits.starts_with('+'));
                let value = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).map(Address);
                value.ok_or_else(|| {
                    E::custom(format!("'{text}' is not an address: expected 0x and hex digits"))
                })
            }
        }
        deserializer.deserialize_str(Digits)
    }
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "json")
}

/// Whether the first thing in the file, after blanks and comments, is a range file's key. No kernel starts so.
fn is_range_file(path: &Path) -> std::io::Result<bool> {
    let mut head = Vec::new();
    File::open(path)?.take(4096).read_to_end(&mut head)?;
    let text = String::from_utf8_lossy(&head);
    let mut lines =
        text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#') && *l != "---");
    let first = lines.next().unwrap_or_default();
    Ok(first.starts_with(KEY) || first.starts_with('{'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use microslice_symtab::Class;

    fn sample() -> KernelRanges {
        let range = |start, end, class, name: &str| microslice_symtab::Range {
            start,
            end,
            class,
            names: vec![name.into()],
        };
        KernelRanges {
            kernel: Some("Linux version 6.1.0".into()),
            banner_at: Some(0xffff_ffff_8200_0100),
            anchors: Anchors {
                syscall: Some(0xffff_ffff_81a0_0080),
                trampoline: false,
                page_fault: vec![0xffff_ffff_81a0_0b30],
            },
            ranges: vec![
                range(
                    0xffff_ffff_8100_0000,
                    0xffff_ffff_8100_0040,
                    Class::LockWait,
                    "native_queued_spin_lock_slowpath",
                ),
                range(
                    0xffff_ffff_8100_0040,
                    0xffff_ffff_8100_0080,
                    Class::IpiWait,
                    "smp_call_function_many_cond",
                ),
            ],
            report: None,
        }
    }

    #[test]
    fn a_file_reads_back_as_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["r.yaml", "r.json"] {
            let path = dir.path().join(name);
            sample().write(&path).unwrap();
            assert_eq!(KernelRanges::load(&path, &Catalog::builtin()).unwrap(), sample(), "{name}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no partial file is left");
    }

    #[test]
    fn bad_files_are_refused_with_the_place() {
        let range =
            |s: &str, e: &str| format!("- {{start: '{s}', end: '{e}', class: lock-wait, names: []}}\n");
        let cases = [
            ("microslice-ranges: 2\nranges: []\n".to_owned(), "this microslice reads 1"),
            (
                format!("microslice-ranges: 1\nranges:\n{}{}", range("0x20", "0x30"), range("0x10", "0x18")),
                "not sorted",
            ),
            (
                format!("microslice-ranges: 1\nranges:\n{}{}", range("0x20", "0x30"), range("0x28", "0x38")),
                "overlaps",
            ),
            ("microslice-ranges: 1\nranges: []\ncolour: red\n".into(), "unknown field `colour`"),
            ("microslice-ranges: 1\nentry_SYSCALL_64: '12'\nranges: []\n".into(), "'12' is not an address"),
            (format!("microslice-ranges: 1\nranges:\n{}", range("32", "0x30")), "not an address"),
            (
                "microslice-ranges: 1\nranges:\n- {start: '0x1', end: '0x2', class: lockwait, names: []}\n"
                    .into(),
                "lockwait",
            ),
        ];
        for (text, why) in cases {
            let error = format!("{:#}", KernelRanges::parse(&text, false).unwrap_err());
            assert!(error.contains(why), "{text}\n{error}");
        }
    }

    #[test]
    fn a_slide_moves_all_ranges_or_fails() {
        let plain = sample().plain(0x20_0000).unwrap();
        assert_eq!(
            plain.first().map(|r| (r.start, r.end)),
            Some((0xffff_ffff_8120_0000, 0xffff_ffff_8120_0040))
        );
        assert!(sample().plain(0x7fff_ffff_ffff).is_err());
    }

    #[test]
    fn modules_are_where_a_dump_has_them_and_nowhere_else() {
        let mut kernel = sample();
        kernel.ranges.push(microslice_symtab::Range {
            start: 0xffff_ffff_c000_0000,
            end: 0xffff_ffff_c000_0040,
            class: Class::IpiServe,
            names: vec!["kvm_flush [kvm]".into()],
        });
        assert_eq!(kernel.plain(0).unwrap().len(), 3);
        let error = kernel.plain(0x20_0000).unwrap_err().to_string();
        assert!(error.contains("0x200000") && error.contains("kvm_flush [kvm]"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.yaml");
        kernel.write(&path).unwrap();
        let read = KernelRanges::load(&path, &Catalog::builtin()).unwrap();
        assert!(read.plain(0x20_0000).is_err(), "a range file keeps what is of a module");
    }
}

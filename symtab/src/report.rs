// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the catalogue found in a kernel, class by class, and what the kernel lacks.

use crate::catalog::Catalog;
use crate::class::Class;
use crate::image::{KernelImage, Kind};
use crate::ranges::{Hit, Range};
use crate::unpack::Compression;
use crate::version::Version;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;

/// One class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassReport {
    /// Which.
    pub class: Class,
    /// Symbols of the kernel, with compiler suffixes, by name.
    pub found: Vec<String>,
    /// Catalogued names that a kernel of this version should have, and this one has not: inlined away or configured
    /// out. Without a known version: every catalogued name that it has not.
    pub lacking: Vec<String>,
    /// Catalogued names that a kernel of this version does not have in its source.
    pub other_versions: Vec<String>,
    /// Ranges of this class.
    pub ranges: usize,
    /// Bytes in them.
    pub bytes: u64,
}

/// All classes of one kernel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The form of the image.
    pub kind: Kind,
    /// How it was packed.
    pub compression: Option<Compression>,
    /// Its banner, if it has one.
    pub banner: Option<String>,
    /// Its GNU build id in hex, if it has one.
    pub build_id: Option<String>,
    /// The version in its banner.
    pub version: Option<Version>,
    /// Class by class, in ABI order.
    pub classes: Vec<ClassReport>,
    /// Ranges in all.
    pub ranges: usize,
    /// Bytes in them.
    pub bytes: u64,
    /// Bytes of the kernel's text, `_stext` to `_etext`.
    pub text_bytes: u64,
    /// Symbols that share their address with one whose class won.
    pub shadowed: Vec<String>,
}

impl Report {
    pub(crate) fn new(
        image: &KernelImage,
        catalog: &Catalog,
        hits: &[Hit<'_>],
        ranges: &[Range],
        shadowed: Vec<String>,
    ) -> Report {
        let version = image.version();
        let have: BTreeSet<&str> = hits.iter().map(|hit| hit.name).collect();
        let class_report = |class: Class| {
            let of_class = |range: &&Range| range.class == class;
            let symbols = hits.iter().filter(|hit| hit.entry.class == class);
            let found: BTreeSet<String> = symbols.map(|hit| hit.symbol.name.to_owned()).collect();
            let absent = catalog.iter().filter(|(name, entry)| entry.class == class && !have.contains(name));
            let (lacking, other_versions): (Vec<_>, Vec<_>) =
                absent.partition(|(_, entry)| version.is_none_or(|version| entry.expected_in(version)));
            let names = |rows: Vec<(&str, _)>| rows.into_iter().map(|(name, _)| name.to_owned()).collect();
            ClassReport {
                class,
                found: found.into_iter().collect(),
                lacking: names(lacking),
                other_versions: names(other_versions),
                ranges: ranges.iter().filter(of_class).count(),
                bytes: ranges.iter().filter(of_class).map(|range| range.end - range.start).sum(),
            }
        };
        let text = image.text();
        Report {
            kind: image.kind(),
            compression: image.compression(),
            banner: image.version_banner().map(str::to_owned),
            build_id: image.build_id().map(str::to_owned),
            version,
            classes: Class::CRITICAL.into_iter().map(class_report).collect(),
            ranges: ranges.len(),
            bytes: ranges.iter().map(|range| range.end - range.start).sum(),
            text_bytes: text.end - text.start,
            shadowed,
        }
    }

    /// The part of the kernel's text that has a class, 0 to 1.
    pub fn share(&self) -> f64 {
        self.bytes as f64 / self.text_bytes.max(1) as f64
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if let Some(compression) = self.compression {
            write!(f, ", {compression}")?;
        }
        writeln!(f, ": {}", self.banner.as_deref().unwrap_or("version unknown"))?;
        if let Some(build_id) = &self.build_id {
            writeln!(f, "build id {build_id}")?;
        }
        for class in &self.classes {
            let (names, ranges, bytes) = (class.found.len(), class.ranges, class.bytes);
            writeln!(f, "{:<10} {names:>4} symbols {ranges:>4} ranges {bytes:>7} bytes", class.class)?;
            list(f, "found", &class.found)?;
            list(f, "inlined or configured out", &class.lacking)?;
            list(f, "not in this version", &class.other_versions)?;
        }
        list(f, "shadowed", &self.shadowed)?;
        writeln!(
            f,
            "{} ranges, {} bytes: {:.3} % of {} bytes of kernel text",
            self.ranges,
            self.bytes,
            self.share() * 100.0,
            self.text_bytes
        )
    }
}

/// Names under a title, wrapped at 120 columns.
fn list(f: &mut fmt::Formatter<'_>, title: &str, names: &[String]) -> fmt::Result {
    if names.is_empty() {
        return Ok(());
    }
    let mut line = format!("  {title}:");
    for name in names {
        if line.len() + 1 + name.len() > 120 {
            writeln!(f, "{line}")?;
            line = "   ".to_owned();
        }
        line.push(' ');
        line.push_str(name);
    }
    writeln!(f, "{line}")
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! From symbols and a catalogue to sorted, disjoint ranges.
//!
//! Where two catalogued functions overlap (an alias, or a label inside a function whose ELF size spans it), an address
//! belongs to the symbol that starts last; among symbols that start together the class of the lowest ABI number wins
//! (a waiter's class decides what a yield means; a holder's only makes it eligible) and the report names the loser.

use crate::catalog::{Catalog, Entry};
use crate::class::Class;
use crate::error::Error;
use crate::hex;
use crate::image::KernelImage;
use crate::report::Report;
use crate::symbols::{Prefixes, Symbol};
use serde::{Deserialize, Serialize};

/// Code of one class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// First byte; in JSON a string "0x...", since a JSON reader may round large numbers.
    #[serde(with = "hex")]
    pub start: u64,
    /// One past the last byte; likewise.
    #[serde(with = "hex")]
    pub end: u64,
    /// Never [`Class::None`].
    pub class: Class,
    /// The symbols it came from, as the kernel has them, by rising address; of a module as "name [module]".
    pub names: Vec<String>,
}

impl Range {
    /// Whether it is code of a module, as a dump of a live kernel has it: each boot loads modules elsewhere, and no
    /// slide tells where.
    pub fn is_live_only(&self) -> bool {
        self.names.iter().any(|name| name.ends_with(']'))
    }
}

/// The ranges of one kernel, and what was found on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranges {
    ranges: Vec<Range>,
    report: Report,
}

/// A catalogued function of the image.
pub(crate) struct Hit<'a> {
    pub(crate) name: &'a str,
    pub(crate) entry: &'a Entry,
    pub(crate) symbol: Symbol<'a>,
    end: u64,
}

impl Ranges {
    pub(crate) fn build(image: &KernelImage, catalog: &Catalog) -> Ranges {
        let hits = hits(image, catalog);
        let mut shadowed = Vec::new();
        let mut ranges: Vec<Range> = Vec::new();
        let mut rest = hits.as_slice();
        while let Some((first, _)) = rest.split_first() {
            let start = first.symbol.address;
            let (same, later) = rest.split_at(rest.partition_point(|hit| hit.symbol.address == start));
            rest = later;
            let class = same.iter().map(|hit| hit.entry.class).min().unwrap_or(Class::None);
            let (same, losers): (Vec<_>, Vec<_>) = same.iter().partition(|hit| hit.entry.class == class);
            shadowed.extend(losers.iter().map(|hit| format!("{} ({})", hit.symbol.name, hit.entry.class)));
            let next = later.first().map_or(u64::MAX, |hit| hit.symbol.address);
            let end = same.iter().map(|hit| hit.end).max().unwrap_or(start).min(next);
            let names = same.iter().map(|hit| label(&hit.symbol));
            push(&mut ranges, Range { start, end, class, names: names.collect() });
        }
        let report = Report::new(image, catalog, &hits, &ranges, shadowed);
        Ranges { ranges, report }
    }

    /// The ranges, sorted.
    pub fn as_slice(&self) -> &[Range] {
        &self.ranges
    }

    /// The ranges, sorted.
    pub fn iter(&self) -> std::slice::Iter<'_, Range> {
        self.ranges.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether the kernel has nothing of the catalogue.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The range that holds an address.
    pub fn find(&self, address: u64) -> Option<&Range> {
        let after = self.ranges.partition_point(|range| range.start <= address);
        self.ranges.get(after.checked_sub(1)?).filter(|range| address < range.end)
    }

    /// What was found and what not. Unchanged by a slide.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The ranges of the same kernel, moved by `slide` bytes.
    ///
    /// # Errors
    /// [`Error::Slide`] if one would wrap around; [`Error::LiveOnly`] if one is of a module.
    pub fn slide(&self, slide: i64) -> Result<Ranges, Error> {
        if slide != 0
            && let Some(range) = self.ranges.iter().find(|range| range.is_live_only())
        {
            return Err(Error::LiveOnly { slide, name: range.names.join(" ") });
        }
        let moved = self.ranges.iter().map(|range| {
            let moved = (range.start.checked_add_signed(slide), range.end.checked_add_signed(slide));
            let (Some(start), Some(end)) = moved else {
                return Err(Error::Slide { slide, start: range.start, end: range.end });
            };
            Ok(Range { start, end, ..range.clone() })
        });
        Ok(Ranges { ranges: moved.collect::<Result<_, _>>()?, report: self.report.clone() })
    }
}

impl<'a> IntoIterator for &'a Ranges {
    type Item = &'a Range;
    type IntoIter = std::slice::Iter<'a, Range>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Functions that the catalogue has, by rising address.
fn hits<'a>(image: &'a KernelImage, catalog: &'a Catalog) -> Vec<Hit<'a>> {
    let wanted = Prefixes::new(&catalog.iter().map(|(name, _)| name).collect::<Vec<_>>());
    let found = image.functions(&wanted, |symbol, module| {
        let (name, entry) = catalog.find(symbol)?;
        let there = module.is_none() || module == entry.module.as_deref();
        (there && entry.class != Class::None).then_some((name, entry))
    });
    let hits = found
        .into_iter()
        .filter_map(|(symbol, (name, entry))| Some(Hit { name, entry, symbol, end: symbol.end? }));
    hits.collect()
}

/// A symbol as /proc/kallsyms has it.
fn label(symbol: &Symbol<'_>) -> String {
    match symbol.module {
        Some(module) => format!("{} [{module}]", symbol.name),
        None => symbol.name.to_owned(),
    }
}

fn push(ranges: &mut Vec<Range>, range: Range) {
    if range.end <= range.start {
        return;
    }
    match ranges.last_mut() {
        Some(last) if last.end == range.start && last.class == range.class => {
            last.end = range.end;
            last.names.extend(range.names);
        }
        _ => ranges.push(range),
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Symbols of one kernel: their names in one block of memory, sorted by address only when somebody asks for the order.
//!
//! A function's end is its start plus its ELF size where it has one, else the next symbol at a higher address. A
//! function of the kernel's text never ends after `_etext`; the last one of a module ends with its page, since what
//! follows it is unknown. Equal addresses are aliases and share their end.

use crate::bytes::u64_at;
use crate::elf::ElfTable;
use crate::error::Error;
use crate::image::Limits;
use std::sync::OnceLock;

/// One symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// As the kernel has it, with compiler suffixes.
    pub name: &'a str,
    /// The module it belongs to, in a dump of a live kernel; `None`: the kernel proper.
    pub module: Option<&'a str>,
    /// First byte.
    pub address: u64,
    /// One past the last byte; `None` if nothing tells it.
    pub end: Option<u64>,
    /// The letter of `nm`, /proc/kallsyms and System.map: `t`/`T` text, `w`/`W` weak, `d` data, ...
    pub kind: char,
}

impl Symbol<'_> {
    /// Whether the letter may stand for code.
    pub fn is_text(&self) -> bool {
        is_text(self.kind as u32)
    }
}

fn is_text(letter: u32) -> bool {
    [b't', b'T', b'w', b'W'].map(u32::from).contains(&letter)
}

/// Names longer than this cannot be asked for: KSYM_NAME_LEN is 512 since 6.1.
pub(crate) const NAME_LEN: usize = 512;
const PAGE: u64 = 4096;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw {
    pub(crate) address: u64,
    /// 0: unknown.
    pub(crate) size: u64,
    /// Where its name starts.
    pub(crate) name: u32,
    /// 1 and up: index into the modules' names; 0: the kernel proper.
    pub(crate) module: u16,
    pub(crate) kind: u8,
}

/// Symbols in the source's order; each name ends with a NUL.
#[derive(Clone, Debug)]
enum Table {
    Read {
        raws: Vec<Raw>,
        names: Vec<u8>,
        modules: Vec<String>,
    },
    /// Read anew each time it is looked at: from a large file only the pages that hold it are touched.
    Elf(ElfTable),
}

impl Table {
    fn len(&self) -> usize {
        match self {
            Table::Read { raws, .. } => raws.len(),
            Table::Elf(table) => table.len(),
        }
    }

    /// `None` also for an entry of the ELF table that is no symbol of code or data.
    #[inline]
    fn get(&self, index: usize) -> Option<Raw> {
        match self {
            Table::Read { raws, .. } => raws.get(index).copied(),
            Table::Elf(table) => table.get(index),
        }
    }

    fn names(&self) -> &[u8] {
        match self {
            Table::Read { names, .. } => names,
            Table::Elf(table) => table.names(),
        }
    }
}

/// Collects symbols in any order, within [`Limits`].
#[derive(Debug)]
pub(crate) struct Builder {
    names: Vec<u8>,
    modules: Vec<String>,
    raws: Vec<Raw>,
    limits: Limits,
}

impl Builder {
    pub(crate) fn new(limits: &Limits) -> Builder {
        Builder { names: Vec::new(), modules: Vec::new(), raws: Vec::new(), limits: *limits }
    }

    /// With room for so many symbols, and bytes of names.
    pub(crate) fn with_capacity(limits: &Limits, symbols: usize, names: usize) -> Builder {
        let (raws, names) = (Vec::with_capacity(symbols), Vec::with_capacity(names.min(limits.names)));
        Builder { raws, names, ..Builder::new(limits) }
    }

    pub(crate) fn within(value: usize, limit: usize, what: &'static str) -> Result<(), Error> {
        if value > limit || u32::try_from(value).is_err() {
            return Err(Error::TooLarge { what, limit: limit as u64 });
        }
        Ok(())
    }

    /// Adds a symbol; module 0 is the kernel proper, others come from [`Builder::module`].
    pub(crate) fn push(&mut self, address: u64, kind: u8, name: &[u8], module: u16) -> Result<(), Error> {
        Builder::within(self.raws.len() + 1, self.limits.symbols, "symbols")?;
        Builder::within(self.names.len() + name.len() + 1, self.limits.names, "bytes of symbol names")?;
        let start = self.names.len() as u32;
        self.names.extend_from_slice(name);
        self.names.push(0);
        self.raws.push(Raw { address, size: 0, name: start, module, kind });
        Ok(())
    }

    /// Adds a symbol of the kernel proper whose letter and name `write` appends; says how many bytes these are.
    pub(crate) fn push_with_letter(
        &mut self,
        address: u64,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<usize, Error> {
        let start = self.names.len();
        write(&mut self.names);
        let len = self.names.len() - start;
        self.names.push(0);
        Builder::within(self.raws.len() + 1, self.limits.symbols, "symbols")?;
        Builder::within(self.names.len(), self.limits.names, "bytes of symbol names")?;
        let kind = self.names.get(start).copied().unwrap_or(0);
        self.raws.push(Raw { address, size: 0, name: start as u32 + 1, module: 0, kind });
        Ok(len)
    }

    /// The number of a module; dumps list a module's symbols together.
    pub(crate) fn module(&mut self, name: &str) -> Result<u16, Error> {
        if self.modules.last().is_none_or(|last| last != name) {
            self.modules.push(name.to_owned());
        }
        let limit = u16::MAX.into();
        u16::try_from(self.modules.len()).map_err(|_| Error::TooLarge { what: "modules", limit })
    }

    /// Fails if these are not the symbols of a Linux kernel.
    pub(crate) fn finish(self) -> Result<Symbols, Error> {
        let sorted = self.raws.is_sorted_by_key(|raw| raw.address);
        Symbols::new(Table::Read { raws: self.raws, names: self.names, modules: self.modules }, sorted)
    }
}

/// The first 8 bytes, zeros after the end.
fn head(name: &[u8]) -> u64 {
    name.iter().take(8).zip((0..).step_by(8)).fold(0, |head, (&byte, shift)| head | u64::from(byte) << shift)
}

/// Tells of most names, by their first bytes, that they are not among some wanted ones.
pub(crate) struct Prefixes {
    /// As many of the first 8 bytes as the shortest wanted name has.
    mask: u64,
    bits: Vec<u64>,
}

impl Prefixes {
    pub(crate) fn new(wanted: &[&str]) -> Prefixes {
        let shortest = wanted.iter().map(|name| name.len()).min().unwrap_or(8).min(8);
        let mask = if shortest == 8 { u64::MAX } else { (1 << (8 * shortest)) - 1 };
        let mut prefixes = Prefixes { mask, bits: vec![0; 1024] };
        for name in wanted {
            let head =
                name.bytes().take(8).enumerate().fold(0, |head, (i, b)| head | u64::from(b) << (8 * i));
            let hash = prefixes.hash(head);
            if let Some(word) = prefixes.bits.get_mut(hash >> 6) {
                *word |= 1 << (hash & 63);
            }
        }
        prefixes
    }

    /// 16 bits of the masked bytes; the multiplier is 2^64 over the golden ratio (Knuth, multiplicative hashing).
    fn hash(&self, head: u64) -> usize {
        ((head & self.mask).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize
    }

    /// Whether the name at that place may be one of them.
    fn may_have(&self, names: &[u8], at: usize) -> bool {
        let hash = self.hash(u64_at(names, at).unwrap_or_else(|| head(names.get(at..).unwrap_or(&[]))));
        self.bits.get(hash >> 6).is_some_and(|word| word >> (hash & 63) & 1 == 1)
    }
}

/// The symbols of one kernel.
#[derive(Clone, Debug)]
pub(crate) struct Symbols {
    table: Table,
    /// Whether its order is by address.
    sorted: bool,
    /// Else the indices by address, and in the source's order where those are equal.
    order: OnceLock<Vec<u32>>,
    text: std::ops::Range<u64>,
    banner_at: Option<u64>,
}

impl Symbols {
    /// From an ELF file's own table.
    pub(crate) fn of_elf(table: ElfTable) -> Result<Symbols, Error> {
        Symbols::new(Table::Elf(table), false)
    }

    fn new(table: Table, sorted: bool) -> Result<Symbols, Error> {
        let mut symbols = Symbols { table, sorted, order: OnceLock::new(), text: 0..0, banner_at: None };
        const NAMES: [&str; 6] =
            ["_stext", "_text", "_etext", "linux_banner", "start_kernel", "entry_SYSCALL_64"];
        let [stext, text, end, banner, others @ ..] = symbols.addresses(NAMES);
        let start = stext.or(text).ok_or(Error::NotLinux("_stext"))?;
        let end = end.ok_or(Error::NotLinux("_etext"))?;
        if banner.is_none() && others == [None, None] {
            return Err(Error::NotLinux("start_kernel and entry_SYSCALL_64"));
        }
        if end <= start {
            return Err(Error::NotLinux("an _etext above its _stext"));
        }
        symbols.text = start..end;
        symbols.banner_at = banner;
        Ok(symbols)
    }

    fn name(&self, raw: &Raw) -> &str {
        let rest = self.table.names().get(raw.name as usize..).unwrap_or(&[]);
        let rest = rest.get(..NAME_LEN + 1).unwrap_or(rest);
        let name = memchr::memchr(0, rest).and_then(|len| rest.get(..len));
        name.and_then(|name| std::str::from_utf8(name).ok()).unwrap_or("")
    }

    /// Symbols from an index on, in the source's order.
    fn raws(&self, from: usize) -> impl Iterator<Item = Raw> {
        (from..self.table.len()).filter_map(|index| self.table.get(index))
    }

    /// Those of some symbols whose name may be among the wanted ones.
    fn candidates(
        &self,
        raws: impl Iterator<Item = Raw>,
        wanted: &Prefixes,
    ) -> impl Iterator<Item = (Raw, &str)> {
        let names = self.table.names();
        let raws = raws.filter(|raw| wanted.may_have(names, raw.name as usize));
        raws.map(|raw| (raw, self.name(&raw)))
    }

    /// The lowest addresses of symbols of the kernel proper with these names, which no static function has.
    fn addresses<const N: usize>(&self, names: [&str; N]) -> [Option<u64>; N] {
        let first = match &self.table {
            Table::Read { .. } => 0,
            Table::Elf(table) => table.first_global(),
        };
        let mut found = [None; N];
        for (raw, name) in self.candidates(self.raws(first), &Prefixes::new(&names)) {
            for (found, wanted) in found.iter_mut().zip(names) {
                if raw.module == 0 && name == wanted && found.is_none_or(|lowest| raw.address < lowest) {
                    *found = Some(raw.address);
                }
            }
        }
        found
    }

    /// Functions of the kernel's text and of modules for which `keep` says yes, by rising address.
    pub(crate) fn functions<'a, T>(
        &'a self,
        wanted: &Prefixes,
        keep: impl Fn(&'a str, Option<&'a str>) -> Option<T>,
    ) -> Vec<(Symbol<'a>, T)> {
        let code =
            |raw: &Raw| is_text(raw.kind.into()) && (raw.module != 0 || self.text.contains(&raw.address));
        let kept = self.candidates(self.raws(0).filter(code), wanted);
        let kept = kept.filter_map(|(raw, name)| Some((raw, keep(name, self.module(&raw))?)));
        let mut kept: Vec<(Raw, T)> = kept.collect();
        kept.sort_by_key(|(raw, _)| raw.address);
        // Who has a size needs no neighbour.
        let mut starts: Vec<u64> =
            kept.iter().filter(|(raw, _)| raw.size == 0).map(|(raw, _)| raw.address).collect();
        starts.dedup();
        let above = self.above(&starts);
        let above_of = |raw: &Raw| *above.get(starts.binary_search(&raw.address).ok()?)?;
        kept.into_iter().map(|(raw, kept)| (self.view(&raw, above_of(&raw)), kept)).collect()
    }

    /// For each of some rising addresses a symbol at the next higher one. One pass, if that is cheaper than to sort all.
    fn above(&self, starts: &[u64]) -> Vec<Option<Raw>> {
        if self.sorted || self.order.get().is_some() {
            return starts.iter().map(|&start| self.nth(self.first_after(start))).collect();
        }
        let mut above: Vec<Option<Raw>> = vec![None; starts.len()];
        let Some(&lowest) = starts.first() else { return above };
        for raw in self.raws(0).filter(|raw| raw.address > lowest) {
            let slot = starts.partition_point(|&start| start < raw.address).checked_sub(1);
            if let Some(slot) = slot.and_then(|slot| above.get_mut(slot))
                && slot.is_none_or(|nearest| raw.address < nearest.address)
            {
                *slot = Some(raw);
            }
        }
        above
    }

    /// Indices by address; empty if the source's order is that.
    fn order(&self) -> &[u32] {
        self.order.get_or_init(|| {
            if self.sorted {
                return Vec::new();
            }
            let indices = 0..self.table.len() as u32;
            let named =
                |raw: &Raw| self.table.names().get(raw.name as usize).is_some_and(|&first| first != 0);
            let key = |index: u32| Some((self.table.get(index as usize).filter(named)?.address, index));
            let mut keys: Vec<(u64, u32)> = indices.filter_map(key).collect();
            keys.sort_unstable();
            keys.into_iter().map(|(_, index)| index).collect()
        })
    }

    /// By address.
    fn nth(&self, position: usize) -> Option<Raw> {
        let index =
            if self.sorted { Some(position) } else { self.order().get(position).map(|&i| i as usize) };
        self.table.get(index?)
    }

    fn len(&self) -> usize {
        if self.sorted { self.table.len() } else { self.order().len() }
    }

    /// The position of the first symbol at or after an address.
    fn first_from(&self, address: u64) -> usize {
        let before = |index: usize| self.table.get(index).is_some_and(|raw| raw.address < address);
        if !self.sorted {
            return self.order().partition_point(|&index| before(index as usize));
        }
        match &self.table {
            Table::Read { raws, .. } => raws.partition_point(|raw| raw.address < address),
            Table::Elf(_) => 0,
        }
    }

    fn first_after(&self, address: u64) -> usize {
        address.checked_add(1).map_or_else(|| self.len(), |next| self.first_from(next))
    }

    fn module(&self, raw: &Raw) -> Option<&str> {
        let Table::Read { modules, .. } = &self.table else { return None };
        modules.get(usize::from(raw.module).checked_sub(1)?).map(String::as_str)
    }

    /// `above`: a symbol at the next higher address.
    fn view(&self, raw: &Raw, above: Option<Raw>) -> Symbol<'_> {
        let next = above.map(|above| above.address);
        let end = if raw.size != 0 { Some(raw.address.saturating_add(raw.size)) } else { next };
        let end = if self.text.contains(&raw.address) {
            Some(end.map_or(self.text.end, |end| end.min(self.text.end)))
        } else if raw.module != 0 && above.is_none_or(|above| above.module != raw.module) {
            let page_end = (raw.address | (PAGE - 1)).saturating_add(1);
            Some(end.map_or(page_end, |end| end.min(page_end)))
        } else {
            end
        };
        Symbol {
            name: self.name(raw),
            module: self.module(raw),
            address: raw.address,
            end: end.filter(|&end| end > raw.address),
            kind: char::from(raw.kind),
        }
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = Symbol<'_>> {
        const NONE: Symbol<'static> = Symbol { name: "", module: None, address: 0, end: None, kind: '?' };
        let mut next = self.nth(0);
        (0..self.len()).map(move |position| {
            let raw = std::mem::replace(&mut next, self.nth(position + 1));
            raw.map_or(NONE, |raw| self.view(&raw, self.above_in_order(&raw, next)))
        })
    }

    /// A symbol at the next higher address, if `next` is the one that follows.
    fn above_in_order(&self, raw: &Raw, next: Option<Raw>) -> Option<Raw> {
        next.filter(|next| next.address > raw.address).or_else(|| self.nth(self.first_after(raw.address)))
    }

    /// The lowest symbol of the kernel proper of exactly that name.
    pub(crate) fn find(&self, name: &str) -> Option<Symbol<'_>> {
        let prefix = Prefixes::new(&[name]);
        let named = self.candidates(self.raws(0), &prefix).filter(|&(_, own)| own == name);
        let raw = named.map(|(raw, _)| raw).filter(|raw| raw.module == 0).min_by_key(|raw| raw.address)?;
        let above = self.above(&[raw.address]);
        Some(self.view(&raw, above.first().copied().flatten()))
    }

    /// The symbols that start last at or below an address and reach beyond it: several if they are aliases.
    pub(crate) fn at(&self, address: u64) -> impl Iterator<Item = Symbol<'_>> {
        let after = self.first_after(address);
        let start = after.checked_sub(1).and_then(|last| self.nth(last)).map(|raw| raw.address);
        let first = start.map_or(after, |start| self.first_from(start));
        let aliases = (first..after).filter_map(|position| self.nth(position));
        let above = self.nth(after);
        let aliases = aliases.map(move |raw| self.view(&raw, above));
        aliases.filter(move |symbol| symbol.end.is_some_and(|end| address < end))
    }

    /// `_stext.._etext`.
    pub(crate) fn text(&self) -> std::ops::Range<u64> {
        self.text.clone()
    }

    /// Where `linux_banner` is.
    pub(crate) fn banner_at(&self) -> Option<u64> {
        self.banner_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn build(list: &[(u64, u64, &str)]) -> Result<Symbols, Error> {
        let mut builder = Builder::new(&Limits::default());
        for &(address, size, name) in list {
            builder.push(address, b'T', name.as_bytes(), 0)?;
            builder.raws.last_mut().unwrap().size = size;
        }
        builder.finish()
    }

    const FRAME: [(u64, u64, &str); 3] =
        [(0x1000, 0, "_stext"), (0x2000, 0, "_etext"), (0x1000, 0, "start_kernel")];

    #[test]
    fn ends_come_from_sizes_then_the_next_address_then_etext() {
        let mut list = FRAME.to_vec();
        list.extend([
            (0x1100, 8, "sized"),
            (0x1200, 0, "open"),
            (0x1200, 0, "alias"),
            (0x1300, 0x9999_9999, "huge"),
        ]);
        list.push((0x1f00, 0, "last"));
        list.push((0x5000, 0, "beyond"));
        let symbols = build(&list).unwrap();
        let end = |name| symbols.find(name).unwrap().end;
        assert_eq!(end("sized"), Some(0x1108));
        assert_eq!(end("open"), Some(0x1300));
        assert_eq!(end("alias"), Some(0x1300));
        assert_eq!(end("huge"), Some(0x2000));
        assert_eq!(end("last"), Some(0x2000));
        assert_eq!(end("beyond"), None);
        let at = |address| symbols.at(address).map(|symbol| symbol.name).collect::<Vec<_>>();
        assert_eq!(at(0x12ff), ["open", "alias"]);
        assert_eq!(at(0x1107), ["sized"]);
        assert!(at(0x1108).is_empty() && at(0xfff).is_empty() && at(0x6000).is_empty());
    }

    proptest! {
        /// What is found without sorting is what the sorted list has.
        #[test]
        fn functions_do_not_depend_on_the_order(
            places in prop::collection::vec((0x1000..0x2100_u64, 0..3_u64), 1..40),
            wanted in 1..8_usize,
        ) {
            let names: Vec<String> = (0..places.len()).map(|i| format!("f{}_{i}", i % 8)).collect();
            let own = places.iter().zip(&names).map(|(&(at, size), name)| (at, size * 8, name.as_str()));
            let list: Vec<_> = FRAME.into_iter().chain(own).collect();
            let symbols = build(&list).unwrap();
            let prefix = format!("f{wanted}_");
            let is_wanted = |name: &str| name.starts_with(&prefix);
            let wanted: Vec<&str> = names.iter().map(String::as_str).filter(|name| is_wanted(name)).collect();
            let filter = Prefixes::new(&wanted);
            let keep = |name: &str, _: Option<&str>| is_wanted(name).then_some(());
            let found: Vec<Symbol<'_>> =
                symbols.functions(&filter, keep).into_iter().map(|(symbol, ())| symbol).collect();
            prop_assert!(symbols.sorted || symbols.order.get().is_none());
            let all = symbols.iter().filter(|symbol| symbols.text().contains(&symbol.address));
            let expected: Vec<Symbol<'_>> = all.filter(|symbol| is_wanted(symbol.name)).collect();
            prop_assert_eq!(&found, &expected);
            let again: Vec<_> = symbols.functions(&filter, keep).into_iter().map(|(symbol, ())| symbol).collect();
            prop_assert_eq!(&again, &expected);
        }
    }

    #[test]
    fn symbols_of_something_else_are_refused() {
        assert!(matches!(build(&[]), Err(Error::NotLinux("_stext"))));
        assert!(matches!(build(&FRAME[..2]), Err(Error::NotLinux(_))));
        assert!(matches!(build(&FRAME[..1]), Err(Error::NotLinux("_etext"))));
    }

    #[test]
    fn limits_hold() {
        let limits = Limits { symbols: 1, ..Limits::default() };
        let mut builder = Builder::new(&limits);
        builder.push(0, b't', b"a", 0).unwrap();
        assert!(matches!(builder.push(0, b't', b"b", 0), Err(Error::TooLarge { what: "symbols", .. })));
        let small = Limits { names: 3, ..Limits::default() };
        assert!(Builder::new(&small).push(0, b't', b"four", 0).is_err());
    }
}

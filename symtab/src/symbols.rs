// SPDX-License-Identifier: MIT OR Apache-2.0
//! Symbols of one kernel: their names in one block of memory, sorted by address only when somebody asks for the order.
//!
//! A function's end is its start plus its ELF size where it has one, else the next symbol at a higher address. A
//! function of the kernel's text never ends after `_etext`; the last one of a module ends with its page, since what
//! follows it is unknown. Equal addresses are aliases and share their end.

use crate::bytes::u64_at;
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
    size: u64,
    name: u32,
    /// 1 and up: index into the modules' names; 0: the kernel proper.
    module: u16,
    kind: u8,
}

/// Collects symbols in any order, within [`Limits`].
#[derive(Debug)]
pub(crate) struct Builder {
    /// Each name ends with a NUL.
    names: String,
    modules: Vec<String>,
    raws: Vec<Raw>,
    limits: Limits,
}

impl Builder {
    pub(crate) fn new(limits: &Limits) -> Builder {
        Builder { names: String::new(), modules: Vec::new(), raws: Vec::new(), limits: *limits }
    }

    /// For symbols whose names are in a string table: see [`Builder::push_at`].
    pub(crate) fn with_names(limits: &Limits, names: &[u8], symbols: usize) -> Result<Builder, Error> {
        Builder::within(names.len(), limits.names, "bytes of symbol names")?;
        Builder::within(symbols, limits.symbols, "symbols")?;
        // Names are ASCII in every kernel; whatever else is there, offsets must stay.
        let ascii = |bytes: Vec<u8>| bytes.into_iter().map(|b| if b < 0x80 { char::from(b) } else { '?' });
        let names = String::from_utf8(names.to_vec()).unwrap_or_else(|err| ascii(err.into_bytes()).collect());
        Ok(Builder { names, modules: Vec::new(), raws: Vec::with_capacity(symbols), limits: *limits })
    }

    fn within(value: usize, limit: usize, what: &'static str) -> Result<(), Error> {
        if value > limit || u32::try_from(value).is_err() {
            return Err(Error::TooLarge { what, limit: limit as u64 });
        }
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.raws.len()
    }

    /// Adds a symbol; module 0 is the kernel proper, others come from [`Builder::module`].
    pub(crate) fn push(&mut self, address: u64, kind: u8, name: &str, module: u16) -> Result<(), Error> {
        Builder::within(self.raws.len() + 1, self.limits.symbols, "symbols")?;
        Builder::within(self.names.len() + name.len() + 1, self.limits.names, "bytes of symbol names")?;
        let start = self.names.len() as u32;
        self.names.push_str(name);
        self.names.push('\0');
        self.raws.push(Raw { address, size: 0, name: start, module, kind });
        Ok(())
    }

    /// Adds a symbol whose name is at that offset of the string table; one without a name is left out.
    pub(crate) fn push_at(&mut self, address: u64, size: u64, kind: u8, name: u32) {
        if self.names.as_bytes().get(name as usize).is_some_and(|&first| first != 0) {
            self.raws.push(Raw { address, size, name, module: 0, kind });
        }
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
    pub(crate) fn finish(mut self) -> Result<Symbols, Error> {
        self.names.push_str("\0\0\0\0\0\0\0\0"); // so that Symbols::head can read 8 bytes of any name
        let mut symbols = Symbols {
            sorted: self.raws.is_sorted_by_key(|raw| raw.address),
            names: self.names,
            modules: self.modules,
            raws: self.raws,
            order: OnceLock::new(),
            text: 0..0,
            banner_at: None,
        };
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

    fn may_have(&self, head: u64) -> bool {
        let hash = self.hash(head);
        self.bits.get(hash >> 6).is_some_and(|word| word >> (hash & 63) & 1 == 1)
    }
}

/// The finished table.
#[derive(Clone, Debug)]
pub(crate) struct Symbols {
    names: String,
    modules: Vec<String>,
    /// In the source's order.
    raws: Vec<Raw>,
    /// Whether that is by address.
    sorted: bool,
    /// Else the indices by address, and in the source's order where those are equal.
    order: OnceLock<Vec<u32>>,
    text: std::ops::Range<u64>,
    banner_at: Option<u64>,
}

impl Symbols {
    fn name(&self, raw: &Raw) -> &str {
        let start = raw.name as usize;
        let bytes = self.names.as_bytes();
        let rest = bytes.get(start..bytes.len().min(start + NAME_LEN + 1)).unwrap_or(&[]);
        memchr::memchr(0, rest).and_then(|len| self.names.get(start..start + len)).unwrap_or("")
    }

    /// The first 8 bytes of a name, and of what follows a shorter one.
    fn head(&self, raw: &Raw) -> u64 {
        u64_at(self.names.as_bytes(), raw.name as usize).unwrap_or(0)
    }

    /// Symbols whose name may be among the wanted ones, in the source's order.
    fn candidates(&self, wanted: &Prefixes) -> impl Iterator<Item = (&Raw, &str)> {
        let raws = self.raws.iter().filter(|raw| wanted.may_have(self.head(raw)));
        raws.map(|raw| (raw, self.name(raw)))
    }

    /// The lowest addresses of symbols of the kernel proper with these names.
    pub(crate) fn addresses<const N: usize>(&self, names: [&str; N]) -> [Option<u64>; N] {
        let mut found = [None; N];
        for (raw, name) in self.candidates(&Prefixes::new(&names)) {
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
        let kept = self.candidates(wanted).filter_map(|(raw, name)| {
            let code = is_text(raw.kind.into()) && (raw.module != 0 || self.text.contains(&raw.address));
            code.then(|| Some((raw, keep(name, self.module(raw))?))).flatten()
        });
        let mut kept: Vec<(&Raw, T)> = kept.collect();
        kept.sort_by_key(|(raw, _)| raw.address);
        let starts: Vec<u64> = kept.iter().map(|(raw, _)| raw.address).collect();
        let above = self.above(&starts);
        kept.into_iter().zip(above).map(|((raw, kept), above)| (self.view(raw, above), kept)).collect()
    }

    /// For each of some sorted addresses of symbols a symbol at the next higher address. One pass, if that is cheaper
    /// than to sort all.
    fn above(&self, starts: &[u64]) -> Vec<Option<&Raw>> {
        if self.sorted || self.order.get().is_some() {
            return starts.iter().map(|&start| self.nth(self.first_after(start))).collect();
        }
        let mut above: Vec<Option<&Raw>> = vec![None; starts.len()];
        let (Some(&lowest), Some(&highest)) = (starts.first(), starts.last()) else { return above };
        let mut beyond: Option<&Raw> = None;
        let nearer = |raw: &Raw, than: Option<&Raw>| than.is_none_or(|than| raw.address < than.address);
        for raw in self.raws.iter().filter(|raw| raw.address > lowest) {
            if raw.address > highest {
                if nearer(raw, beyond) {
                    beyond = Some(raw);
                }
                continue;
            }
            let slot = starts.partition_point(|&start| start < raw.address).checked_sub(1);
            if let Some(slot) = slot.and_then(|slot| above.get_mut(slot))
                && nearer(raw, *slot)
            {
                *slot = Some(raw);
            }
        }
        // What belongs to the last of several equal addresses belongs to all of them.
        let mut next = beyond;
        let mut later = None;
        for (slot, &start) in above.iter_mut().zip(starts).rev() {
            if later == Some(start) || start == highest {
                *slot = next;
            }
            (next, later) = (*slot, Some(start));
        }
        above
    }

    /// Indices by address; empty if the source's order is that.
    fn order(&self) -> &[u32] {
        self.order.get_or_init(|| {
            if self.sorted {
                return Vec::new();
            }
            let mut keys: Vec<(u64, u32)> = self.raws.iter().map(|raw| raw.address).zip(0..).collect();
            keys.sort_unstable();
            keys.into_iter().map(|(_, index)| index).collect()
        })
    }

    /// By address.
    fn nth(&self, position: usize) -> Option<&Raw> {
        let index =
            if self.sorted { Some(position) } else { self.order().get(position).map(|&i| i as usize) };
        self.raws.get(index?)
    }

    /// The position of the first symbol at or after an address.
    fn first_from(&self, address: u64) -> usize {
        if self.sorted {
            return self.raws.partition_point(|raw| raw.address < address);
        }
        let before = |&index: &u32| self.raws.get(index as usize).is_some_and(|raw| raw.address < address);
        self.order().partition_point(before)
    }

    fn first_after(&self, address: u64) -> usize {
        address.checked_add(1).map_or(self.raws.len(), |next| self.first_from(next))
    }

    fn module(&self, raw: &Raw) -> Option<&str> {
        self.modules.get(usize::from(raw.module).checked_sub(1)?).map(String::as_str)
    }

    /// `above`: a symbol at the next higher address.
    fn view(&self, raw: &Raw, above: Option<&Raw>) -> Symbol<'_> {
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

    fn view_at(&self, position: usize) -> Option<Symbol<'_>> {
        let raw = self.nth(position)?;
        let next = self.nth(position + 1).filter(|next| next.address > raw.address);
        let above = next.or_else(|| self.nth(self.first_after(raw.address)));
        Some(self.view(raw, above))
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = Symbol<'_>> {
        const NONE: Symbol<'static> = Symbol { name: "", module: None, address: 0, end: None, kind: '?' };
        (0..self.raws.len()).map(|position| self.view_at(position).unwrap_or(NONE))
    }

    /// The lowest symbol of the kernel proper of exactly that name.
    pub(crate) fn find(&self, name: &str) -> Option<Symbol<'_>> {
        let prefix = Prefixes::new(&[name]);
        let named = self.candidates(&prefix).filter(|&(_, own)| own == name);
        let raw = named.map(|(raw, _)| raw).filter(|raw| raw.module == 0).min_by_key(|raw| raw.address)?;
        let above = self.above(&[raw.address]);
        Some(self.view(raw, above.first().copied().flatten()))
    }

    /// The symbols that start last at or below an address and reach beyond it: several if they are aliases.
    pub(crate) fn at(&self, address: u64) -> impl Iterator<Item = Symbol<'_>> {
        let after = self.first_after(address);
        let start = after.checked_sub(1).and_then(|last| self.nth(last)).map(|raw| raw.address);
        let first = start.map_or(after, |start| self.first_from(start));
        let aliases = (first..after).filter_map(|position| self.view_at(position));
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
        let names: Vec<String> = list.iter().map(|(.., name)| format!("{name}\0")).collect();
        let mut builder = Builder::with_names(&Limits::default(), names.concat().as_bytes(), list.len())?;
        let mut at = 0;
        for &(address, size, name) in list {
            builder.push_at(address, size, b'T', at);
            at += name.len() as u32 + 1;
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
            prop_assert!(symbols.order.get().is_none());
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
        builder.push(0, b't', "a", 0).unwrap();
        assert!(matches!(builder.push(0, b't', "b", 0), Err(Error::TooLarge { what: "symbols", .. })));
        assert!(Builder::with_names(&limits, b"\0a\0b\0", 2).is_err());
        let small = Limits { names: 3, ..Limits::default() };
        assert!(Builder::new(&small).push(0, b't', "four", 0).is_err());
        assert!(Builder::with_names(&small, b"\0four\0", 1).is_err());
    }

    #[test]
    fn a_string_table_that_is_no_text_keeps_its_offsets() {
        let names = b"\0\xff\xfe\0_stext\0_etext\0linux_banner\0";
        let mut builder = Builder::with_names(&Limits::default(), names, 4).unwrap();
        for (address, name) in [(3, 1), (1, 4), (9, 11), (20, 18), (4, 0), (5, 1000)] {
            builder.push_at(address, 0, b't', name);
        }
        let symbols = builder.finish().unwrap();
        let names: Vec<&str> = symbols.iter().map(|symbol| symbol.name).collect();
        assert_eq!(names, ["_stext", "??", "_etext", "linux_banner"]);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Symbols of one kernel in one block of memory, sorted by address.
//!
//! A function's end is its start plus its ELF size where it has one, else the next symbol at a higher address; a
//! function of the kernel's text never ends after `_etext`. Equal addresses are aliases and share their end.

use crate::error::Error;
use crate::image::Limits;

/// One symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// As the kernel has it, with compiler suffixes.
    pub name: &'a str,
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
        matches!(self.kind, 't' | 'T' | 'w' | 'W')
    }
}

#[derive(Clone, Copy, Debug)]
struct Raw {
    address: u64,
    /// A size while building, the end (0: unknown) once finished.
    end: u64,
    name: u32,
    len: u16,
    kind: u8,
}

/// Collects symbols in any order, within [`Limits`].
#[derive(Debug)]
pub(crate) struct Builder {
    names: String,
    raws: Vec<Raw>,
    limits: Limits,
}

impl Builder {
    pub(crate) fn new(limits: &Limits) -> Builder {
        Builder { names: String::new(), raws: Vec::new(), limits: *limits }
    }

    pub(crate) fn len(&self) -> usize {
        self.raws.len()
    }

    /// Adds a symbol; `size` 0 is unknown.
    pub(crate) fn push(&mut self, address: u64, size: u64, kind: u8, name: &str) -> Result<(), Error> {
        if self.raws.len() >= self.limits.symbols {
            return Err(Error::TooLarge { what: "symbols", limit: self.limits.symbols as u64 });
        }
        let (start, len) = (self.names.len(), name.len());
        let (Ok(start), Ok(len)) = (u32::try_from(start), u16::try_from(len)) else {
            return Err(Error::TooLarge { what: "bytes of symbol names", limit: u64::from(u32::MAX) });
        };
        if start as usize + usize::from(len) > self.limits.names {
            return Err(Error::TooLarge { what: "bytes of symbol names", limit: self.limits.names as u64 });
        }
        self.names.push_str(name);
        self.raws.push(Raw { address, end: size, name: start, len, kind });
        Ok(())
    }

    /// Sorts and computes ends. Fails if these are not the symbols of a Linux kernel.
    pub(crate) fn finish(mut self) -> Result<Symbols, Error> {
        self.raws.sort_by_key(|raw| raw.address);
        self.raws.shrink_to_fit();
        let mut symbols = Symbols { names: self.names, raws: self.raws, text: 0..0 };
        let address = |name| symbols.find(name).map(|symbol| symbol.address);
        let start = address("_stext").or_else(|| address("_text")).ok_or(Error::NotLinux("_stext"))?;
        let end = address("_etext").ok_or(Error::NotLinux("_etext"))?;
        let entry = ["start_kernel", "entry_SYSCALL_64", "linux_banner"];
        if !entry.iter().any(|name| address(name).is_some()) {
            return Err(Error::NotLinux("start_kernel and entry_SYSCALL_64"));
        }
        if end <= start {
            return Err(Error::NotLinux("an _etext above its _stext"));
        }
        symbols.text = start..end;
        symbols.compute_ends();
        Ok(symbols)
    }
}

/// The finished table.
#[derive(Clone, Debug)]
pub(crate) struct Symbols {
    names: String,
    raws: Vec<Raw>,
    text: std::ops::Range<u64>,
}

impl Symbols {
    fn compute_ends(&mut self) {
        let mut above: Option<u64> = None; // the next higher address that has a symbol
        let mut current: Option<u64> = None;
        for raw in self.raws.iter_mut().rev() {
            if current != Some(raw.address) {
                above = current;
                current = Some(raw.address);
            }
            let sized = (raw.end != 0).then(|| raw.address.saturating_add(raw.end));
            let mut end = sized.or(above).unwrap_or(0);
            if self.text.contains(&raw.address) {
                end = if end == 0 { self.text.end } else { end.min(self.text.end) };
            }
            raw.end = end;
        }
    }

    fn view(&self, raw: &Raw) -> Symbol<'_> {
        let start = raw.name as usize;
        Symbol {
            name: self.names.get(start..start + usize::from(raw.len)).unwrap_or(""),
            address: raw.address,
            end: (raw.end > raw.address).then_some(raw.end),
            kind: char::from(raw.kind),
        }
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = Symbol<'_>> {
        self.raws.iter().map(|raw| self.view(raw))
    }

    /// The first symbol of exactly that name.
    pub(crate) fn find(&self, name: &str) -> Option<Symbol<'_>> {
        let named = |raw: &&Raw| usize::from(raw.len) == name.len() && self.view(raw).name == name;
        self.raws.iter().find(named).map(|raw| self.view(raw))
    }

    /// The symbols that start last at or below an address and reach beyond it: several if they are aliases.
    pub(crate) fn at(&self, address: u64) -> impl Iterator<Item = Symbol<'_>> {
        let after = self.raws.partition_point(|raw| raw.address <= address);
        let start = after.checked_sub(1).and_then(|last| self.raws.get(last)).map(|raw| raw.address);
        let first = self.raws.partition_point(|raw| Some(raw.address) < start);
        let aliases = self.raws.get(first..after).unwrap_or(&[]);
        aliases.iter().filter(move |raw| address < raw.end).map(|raw| self.view(raw))
    }

    /// `_stext.._etext`.
    pub(crate) fn text(&self) -> std::ops::Range<u64> {
        self.text.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(list: &[(u64, u64, &str)]) -> Result<Symbols, Error> {
        let mut builder = Builder::new(&Limits::default());
        for &(address, size, name) in list {
            builder.push(address, size, b'T', name)?;
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
        builder.push(0, 0, b't', "a").unwrap();
        assert!(matches!(builder.push(0, 0, b't', "b"), Err(Error::TooLarge { what: "symbols", .. })));
        let mut builder = Builder::new(&Limits { names: 3, ..Limits::default() });
        assert!(builder.push(0, 0, b't', "four").is_err());
    }
}

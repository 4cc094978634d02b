// SPDX-License-Identifier: MIT OR Apache-2.0
//! An ELF vmlinux: headers by goblin, then only `.symtab`, its string table, `.rodata` and the build id are touched.

use crate::bytes::{c_str, slice, u32_at, u64_at};
use crate::debuglink::DebugLink;
use crate::error::Error;
use crate::identity::banner_in;
use crate::image::Limits;
use crate::map::Bytes;
use crate::symbols::{Builder, Raw};
use crate::unpack::Unpacked;
use goblin::container::{Container, Ctx, Endian};
use goblin::elf::header::{EI_CLASS, EI_DATA, ELFCLASS64, ELFDATA2LSB, ELFMAG, EM_X86_64, Header};
use goblin::elf::section_header::{
    SHF_ALLOC, SHF_EXECINSTR, SHF_WRITE, SHN_ABS, SHN_UNDEF, SHT_NOBITS, SHT_NOTE, SHT_STRTAB, SHT_SYMTAB,
};
use goblin::elf::sym::{STB_LOCAL, STB_WEAK, STT_FILE, STT_SECTION};
use goblin::elf::{SectionHeader, SectionHeaders};
use memchr::memmem;
use memmap2::Mmap;
use std::ops::Range;
use std::sync::Arc;

const FORM: &str = "ELF file";
/// Where the file's header is.
pub(crate) const HEADER: Range<u64> = 0..64;

/// Whether `data` begins with the ELF magic.
pub(crate) fn is_elf(data: &[u8]) -> bool {
    data.starts_with(ELFMAG)
}

/// The headers of a file whose bytes stay with the caller.
pub(crate) struct Elf<'a> {
    data: &'a [u8],
    /// Where the sections' headers are.
    headers: Range<u64>,
    sections: SectionHeaders,
    /// Which section has the others' names.
    section_names: usize,
}

impl<'a> Elf<'a> {
    /// Reads the headers; only a little-endian x86-64 ELF file will do.
    pub(crate) fn parse(data: &'a [u8]) -> Result<Elf<'a>, Error> {
        let ident = |at| data.get(at).copied().unwrap_or(0);
        let header = slice(data, HEADER.start, HEADER.end);
        let header = header.ok_or_else(|| Error::damaged(FORM, "ends inside its header"))?;
        if ident(EI_CLASS) != ELFCLASS64 || ident(EI_DATA) != ELFDATA2LSB {
            return Err(Error::Machine("not a 64-bit little-endian ELF file".to_owned()));
        }
        let header =
            goblin::elf::Elf::parse_header(header).map_err(|err| Error::damaged(FORM, err.to_string()))?;
        if header.e_machine != EM_X86_64 {
            return Err(Error::Machine(format!("ELF machine number {}", header.e_machine)));
        }
        let sections = Elf::sections(data, &header)?;
        let headers = header.e_shoff..header.e_shoff.saturating_add(u64::from(header.e_shnum) * 64);
        Ok(Elf { data, headers, sections, section_names: header.e_shstrndx.into() })
    }

    fn sections(data: &[u8], header: &Header) -> Result<SectionHeaders, Error> {
        let (offset, count, size) = (header.e_shoff, header.e_shnum, header.e_shentsize);
        if offset == 0 || count == 0 {
            return Ok(SectionHeaders::new());
        }
        let len = u64::from(count) * 64;
        if size != 64 || slice(data, offset, len).is_none() {
            let detail = format!(
                "{count} section headers of {size} bytes at offset {offset}, file of {} bytes",
                data.len()
            );
            return Err(Error::damaged(FORM, detail));
        }
        SectionHeader::parse(
            data,
            offset as usize,
            usize::from(count),
            Ctx::new(Container::Big, Endian::Little),
        )
        .map_err(|err| Error::damaged(FORM, err.to_string()))
    }

    fn contents(&self, section: &SectionHeader) -> Option<&'a [u8]> {
        if section.sh_type == SHT_NOBITS {
            return None;
        }
        slice(self.data, section.sh_offset, section.sh_size)
    }

    /// The section that holds the sections' names.
    fn names(&self) -> Option<&SectionHeader> {
        self.sections.get(self.section_names)
    }

    fn named(&self, name: &[u8]) -> Option<&SectionHeader> {
        let names = self.contents(self.names()?)?;
        self.sections.iter().find(|section| c_str(names, section.sh_name) == Some(name))
    }

    /// Unpacks all of a file that is looked at here and in [`crate::kallsyms`]; its header is there.
    pub(crate) fn fill(file: &mut Unpacked<'_>) -> Result<(), Error> {
        let headers = Elf::parse(file.bytes())?.headers;
        file.fill(&[headers])?;
        let names = Elf::parse(file.bytes())?.names().map_or(0..0, place);
        file.fill(&[names])?;
        let parts = Elf::parse(file.bytes())?.parts();
        file.fill(&parts)
    }

    fn parts(&self) -> Vec<Range<u64>> {
        let by_kind =
            |section: &&SectionHeader| [SHT_NOTE, SHT_SYMTAB, SHT_STRTAB].contains(&section.sh_type);
        let sections = self.sections.iter().filter(by_kind).chain(self.named(DEBUG_LINK));
        sections.map(place).chain([self.constants_at()]).collect()
    }

    fn constants_at(&self) -> Range<u64> {
        let section = self.named(b".rodata").filter(|section| self.contents(section).is_some());
        section.map_or(0..self.data.len() as u64, place)
    }

    /// What holds a kernel's kallsyms tables and its banner, and where that is in the file: `.rodata`, or all if no section
    /// is called so.
    pub(crate) fn constants(&self) -> (usize, &'a [u8]) {
        let at = self.constants_at();
        (at.start as usize, slice(self.data, at.start, at.end - at.start).unwrap_or(&[]))
    }

    /// The table of `.symtab`; `None` if the file has none.
    pub(crate) fn table(
        &self,
        mapping: Option<&Arc<Mmap>>,
        limits: &Limits,
    ) -> Result<Option<ElfTable>, Error> {
        let Some(symtab) = self.sections.iter().find(|s| s.sh_type == SHT_SYMTAB && s.sh_size > 0) else {
            return Ok(None);
        };
        let part = |section: &SectionHeader, what: &str| {
            let cut = || Error::damaged(FORM, format!("{what} reaches beyond the end of the file"));
            self.contents(section).ok_or_else(cut)?;
            let start = section.sh_offset as usize;
            Ok::<_, Error>(Bytes::of(self.data, mapping, start..start + section.sh_size as usize))
        };
        let symbols = part(symtab, ".symtab")?;
        let strings = self.sections.get(symtab.sh_link as usize);
        let none = || Error::damaged(FORM, "the symbols have no string table");
        let names = part(strings.ok_or_else(none)?, "the symbols' string table")?;
        Builder::within(names.len(), limits.names, "bytes of symbol names")?;
        Builder::within(symbols.len() / ENTRY, limits.symbols, "symbols")?;
        let letters = self.sections.iter().map(letters).collect();
        let table = ElfTable { symbols, names, letters, first_global: symtab.sh_info as usize };
        Ok(Some(table).filter(|table| (0..table.len()).any(|index| table.get(index).is_some())))
    }

    /// The address of a byte of the file in the running kernel.
    pub(crate) fn address_of(&self, offset: usize) -> Option<u64> {
        let offset = offset as u64;
        let section = self.sections.iter().find(|s| {
            s.sh_flags & u64::from(SHF_ALLOC) != 0
                && s.sh_type != SHT_NOBITS
                && (s.sh_offset..s.sh_offset.saturating_add(s.sh_size)).contains(&offset)
        })?;
        section.sh_addr.checked_add(offset - section.sh_offset)
    }

    /// The string at the address of `linux_banner`, if it is one.
    pub(crate) fn banner_at(&self, address: u64) -> Option<String> {
        let section = self.sections.iter().find(|s| {
            s.sh_flags & u64::from(SHF_ALLOC) != 0
                && (s.sh_addr..s.sh_addr.saturating_add(s.sh_size)).contains(&address)
        })?;
        let data = self.contents(section)?;
        banner_in(data.get(usize::try_from(address - section.sh_addr).ok()?..)?)
    }

    /// What the file says of its debug file. `.gnu_debuglink` is a file's name, NULs up to a multiple of 4, its CRC-32.
    pub(crate) fn debug_link(&self) -> DebugLink {
        let link = self.named(DEBUG_LINK).and_then(|section| self.contents(section));
        let link = link.and_then(|link| {
            let name = std::str::from_utf8(c_str(link, 0)?).ok()?;
            let crc = u32_at(link, (name.len() + 4) & !3)?;
            let plain = !name.is_empty() && name != "." && name != ".." && !name.contains('/');
            plain.then(|| (name.to_owned(), crc))
        });
        DebugLink { build_id: self.build_id(), link }
    }

    /// The GNU build id in a note section.
    pub(crate) fn build_id(&self) -> Option<Vec<u8>> {
        let notes = self.sections.iter().filter(|s| s.sh_type == SHT_NOTE);
        notes.filter_map(|section| self.contents(section)).find_map(gnu_build_id)
    }
}

const DEBUG_LINK: &[u8] = b".gnu_debuglink";

/// Where a section's contents are in the file.
fn place(section: &SectionHeader) -> Range<u64> {
    section.sh_offset..section.sh_offset.saturating_add(section.sh_size)
}

/// Bytes of an Elf64_Sym: name u32, info u8, other u8, shndx u16, value u64, size u64.
const ENTRY: usize = 24;

/// `.symtab` and its string table.
#[derive(Clone, Debug)]
pub(crate) struct ElfTable {
    symbols: Bytes,
    names: Bytes,
    /// For each section.
    letters: Vec<[u8; 2]>,
    first_global: usize,
}

impl ElfTable {
    /// Entries, whether symbols or not.
    pub(crate) fn len(&self) -> usize {
        self.symbols.len() / ENTRY
    }

    pub(crate) fn names(&self) -> &[u8] {
        &self.names
    }

    /// The first entry of which others than local symbols are.
    pub(crate) fn first_global(&self) -> usize {
        self.first_global
    }

    /// A symbol of code or data; its name, which may be empty, is not looked at.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<Raw> {
        let start = index.checked_mul(ENTRY)?;
        let entry = self.symbols.get(start..start.checked_add(ENTRY)?)?;
        let &[n0, n1, n2, n3, info, _, s0, s1, ..] = entry else { return None };
        let (kind, binding) = (info & 0xf, info >> 4);
        let section = u32::from(u16::from_le_bytes([s0, s1]));
        let name = u32::from_le_bytes([n0, n1, n2, n3]);
        if section == SHN_UNDEF || kind == STT_FILE || kind == STT_SECTION {
            return None;
        }
        let [letter, weak] = match self.letters.get(section as usize) {
            Some(&letters) => letters,
            None if section == SHN_ABS => [b'a'; 2],
            None => [b'n'; 2],
        };
        let letter = if binding == STB_WEAK { weak } else { letter };
        let kind = if binding == STB_LOCAL { letter } else { letter.to_ascii_uppercase() };
        Some(Raw { address: u64_at(entry, 8)?, size: u64_at(entry, 16)?, name, module: 0, kind })
    }
}

/// What `nm` would print for a section's local symbols, and for weak ones, as far as code is concerned.
fn letters(section: &SectionHeader) -> [u8; 2] {
    let has = |flag: u32| section.sh_flags & u64::from(flag) != 0;
    if has(SHF_EXECINSTR) {
        return *b"tw";
    }
    let letter = match section.sh_type {
        SHT_NOBITS => b'b',
        _ if has(SHF_WRITE) => b'd',
        _ if has(SHF_ALLOC) => b'r',
        _ => b'n',
    };
    [letter, b'v']
}

/// Notes are `namesz, descsz, type`, name and descriptor, each padded to 4 bytes; build ids have type 3, name "GNU\0".
fn gnu_build_id(mut notes: &[u8]) -> Option<Vec<u8>> {
    loop {
        let (name, desc, kind) = (u32_at(notes, 0)?, u32_at(notes, 4)?, u32_at(notes, 8)?);
        let padded = |len: u32| (u64::from(len) + 3) & !3;
        let start = 12 + padded(name);
        if kind == 3 && slice(notes, 12, u64::from(name)) == Some(b"GNU\0") && (1..=64).contains(&desc) {
            return slice(notes, start, u64::from(desc)).map(<[u8]>::to_vec);
        }
        notes = notes.get(usize::try_from(start + padded(desc)).ok()?..)?;
    }
}

/// The first thing in `data` that reads like a banner: "Linux version 6.1.0-56-amd64 (builder@host) (compiler) #1 ...".
pub(crate) fn find_banner(data: &[u8]) -> Option<(usize, String)> {
    let places = memmem::find_iter(data, b"Linux version ").take(64);
    places.filter_map(|at| Some((at, banner_in(data.get(at..)?)?))).find(|(_, line)| {
        let build = line.split_once(" #").map(|(_, build)| build);
        build.is_some_and(|build| build.starts_with(|c: char| c.is_ascii_digit()))
    })
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest kernel image: told by its content, read once, then only its symbols are kept.

use crate::catalog::Catalog;
use crate::debuglink::ROOT;
use crate::elf::{self, Elf};
use crate::error::Error;
use crate::explain::Explanation;
use crate::identity::Identity;
use crate::ranges::Ranges;
use crate::symbols::{Builder, Prefixes, Symbol, Symbols};
use crate::unpack::Compression;
use crate::version::Version;
use crate::{bzimage, kallsyms, map, text};
use memmap2::Mmap;
use serde::Serialize;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What an input may cost. The defaults hold several times the largest kernel that a distribution ships.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a file that is not ELF (default 256 MiB).
    pub input: u64,
    /// Bytes of an unpacked payload, those of LZ4 rounded up to 8 MiB (default 1 GiB).
    pub unpacked: u64,
    /// Symbols (default 4 Mi).
    pub symbols: usize,
    /// Bytes of all their names (default 256 MiB).
    pub names: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { input: 256 << 20, unpacked: 1 << 30, symbols: 4 << 20, names: 256 << 20 }
    }
}

/// What an image turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An ELF vmlinux with a symbol table.
    Elf,
    /// An ELF vmlinux without one: decoded from the kallsyms tables inside.
    StrippedElf,
    /// A bzImage (vmlinuz).
    BzImage,
    /// A System.map, or a dump of a kernel without modules, which reads the same.
    SystemMap,
    /// A dump of /proc/kallsyms.
    Kallsyms,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Elf => "ELF vmlinux",
            Kind::StrippedElf => "stripped ELF vmlinux",
            Kind::BzImage => "bzImage",
            Kind::SystemMap => "System.map",
            Kind::Kallsyms => "kallsyms dump",
        })
    }
}

/// Where bytes come from.
#[derive(Clone, Copy)]
struct Source<'a> {
    /// If they are this mapping, which then stays with the image.
    mapping: Option<&'a Arc<Mmap>>,
    /// The file: a debug file is looked for only then.
    path: Option<&'a Path>,
    limits: &'a Limits,
}

/// The symbols of one kernel, and what is known of it.
#[derive(Clone, Debug)]
pub struct KernelImage {
    symbols: Symbols,
    kind: Kind,
    compression: Option<Compression>,
    identity: Identity,
    debug_file: Option<PathBuf>,
}

impl KernelImage {
    /// Reads a kernel image of any form. Its file is memory-mapped meanwhile, as Xen's own toolstack does to load it, and an
    /// ELF file with a symbol table as long as the image lives: till then others must not truncate it in place, or the
    /// process gets SIGBUS (replacing it by another file is harmless).
    ///
    /// # Errors
    /// [`Error::File`] with the path and the cause.
    pub fn open(path: impl AsRef<Path>) -> Result<KernelImage, Error> {
        let path = path.as_ref();
        KernelImage::open_file(path)
            .map_err(|err| Error::File { path: path.to_owned(), source: Box::new(err) })
    }

    fn open_file(path: &Path) -> Result<KernelImage, Error> {
        let limits = Limits::default();
        if !std::fs::metadata(path)?.is_file() {
            return Err(Error::NotAKernel("not a regular file")); // opening a FIFO could wait for ever
        }
        let mut file = File::open(path)?;
        if file.metadata()?.len() > 0
            && let Ok(data) = map::map(&file)
        {
            let source = Source { mapping: Some(&data), path: Some(path), limits: &limits };
            return KernelImage::read(&data, source);
        }
        // Files in /proc say 0 and hold more, those of some filesystems cannot be mapped: read until the end, or the limit.
        let mut data = Vec::new();
        file.by_ref().take(limits.input + 1).read_to_end(&mut data)?;
        KernelImage::read(&data, Source { mapping: None, path: Some(path), limits: &limits })
    }

    /// Reads a kernel image that is already in memory.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn from_bytes(data: &[u8]) -> Result<KernelImage, Error> {
        KernelImage::from_bytes_within(data, &Limits::default())
    }

    /// The same within given limits.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::TooLarge`] names the limit.
    pub fn from_bytes_within(data: &[u8], limits: &Limits) -> Result<KernelImage, Error> {
        KernelImage::read(data, Source { mapping: None, path: None, limits })
    }

    fn read(data: &[u8], source: Source<'_>) -> Result<KernelImage, Error> {
        let limits = source.limits;
        if data.is_empty() {
            return Err(Error::Empty);
        }
        if elf::is_elf(data) {
            return KernelImage::from_elf(data, source);
        }
        if data.len() as u64 > limits.input {
            return Err(Error::TooLarge { what: "bytes of input", limit: limits.input });
        }
        // What follows is not the mapping, or no ELF file.
        let source = Source { mapping: None, ..source };
        if bzimage::is_bzimage(data) {
            let image = KernelImage::from_packed(bzimage::payload(data)?, source)?;
            return Ok(KernelImage { kind: Kind::BzImage, ..image });
        }
        if text::is_symbol_list(data) {
            return KernelImage::from_text(data, limits);
        }
        if Compression::detect(data).is_some() {
            return KernelImage::from_packed(data, source);
        }
        Err(Error::NotAKernel("no known magic at its start"))
    }

    fn from_text(data: &[u8], limits: &Limits) -> Result<KernelImage, Error> {
        let mut builder = Builder::new(limits);
        let live = text::read(data, &mut builder)?;
        let kind = if live { Kind::Kallsyms } else { Kind::SystemMap };
        let symbols = builder.finish()?;
        let banner_at = symbols.banner_at();
        let identity = Identity { banner_at, ..Identity::default() };
        Ok(KernelImage { symbols, kind, compression: None, identity, debug_file: None })
    }

    /// A compressed stream, with an ELF vmlinux inside.
    fn from_packed(data: &[u8], source: Source<'_>) -> Result<KernelImage, Error> {
        if elf::is_elf(data) {
            return KernelImage::from_elf(data, source);
        }
        let compression = Compression::detect(data)
            .ok_or_else(|| Error::damaged("bzImage", "payload of no known compression format"))?;
        let mut unpacked = compression.unpack(data, source.limits.unpacked)?;
        unpacked.fill(&[elf::HEADER])?;
        if !elf::is_elf(unpacked.bytes()) {
            return Err(Error::NotAKernel("its unpacked payload is not ELF"));
        }
        Elf::fill(&mut unpacked)?;
        let image = KernelImage::from_elf(unpacked.bytes(), source)?;
        Ok(KernelImage { compression: Some(compression), ..image })
    }

    fn from_elf(data: &[u8], source: Source<'_>) -> Result<KernelImage, Error> {
        let limits = source.limits;
        let elf = Elf::parse(data)?;
        let (start, constants) = elf.constants();
        let mut debug_file = None;
        let (kind, symbols) = match elf.table(source.mapping, limits)? {
            Some(table) => (Kind::Elf, Symbols::of_elf(table)?),
            None => match kallsyms::read(constants, |at| elf.address_of(start + at), limits) {
                Ok(builder) => (Kind::StrippedElf, builder.finish()?),
                Err(err) => {
                    let link = elf.debug_link();
                    let found = source.path.and_then(|path| link.follow(path, Path::new(ROOT), limits));
                    let (path, table) = found.unwrap_or(Err(err))?;
                    debug_file = Some(path);
                    (Kind::StrippedElf, Symbols::of_elf(table)?)
                }
            },
        };
        let banner_at = symbols.banner_at();
        let mut identity = Identity {
            banner: banner_at.and_then(|address| elf.banner_at(address)),
            banner_at,
            build_id: elf.build_id().map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect()),
        };
        // Searching touches all constants: only where they were read anyway.
        if identity.banner.is_none()
            && kind == Kind::StrippedElf
            && let Some((at, banner)) = elf::find_banner(constants)
        {
            identity = Identity { banner: Some(banner), banner_at: elf.address_of(start + at), ..identity };
        }
        Ok(KernelImage { symbols, kind, compression: None, identity, debug_file })
    }

    /// What the image is, by its content.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How it was packed, if it was.
    pub fn compression(&self) -> Option<Compression> {
        self.compression
    }

    /// "Linux version 6.1.0-56-amd64 (...) ... #1 SMP ...", if the image holds it (lists of symbols do not).
    pub fn version_banner(&self) -> Option<&str> {
        self.identity.banner.as_deref()
    }

    /// The version in the banner.
    pub fn version(&self) -> Option<Version> {
        self.version_banner().and_then(Version::from_banner)
    }

    /// The GNU build id in lower-case hex, if the image holds it.
    pub fn build_id(&self) -> Option<&str> {
        self.identity.build_id.as_deref()
    }

    /// The separate file of debugging information that the symbols came from, for an image that has none of its own.
    pub fn debug_file(&self) -> Option<&Path> {
        self.debug_file.as_deref()
    }

    /// What tells this build of a kernel from others.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// All symbols, by rising address. The first call on an ELF vmlinux sorts them.
    pub fn symbols(&self) -> impl ExactSizeIterator<Item = Symbol<'_>> {
        self.symbols.iter()
    }

    /// The kernel's symbol of exactly that name (the lowest, if several static functions share it; no module's).
    pub fn symbol(&self, name: &str) -> Option<Symbol<'_>> {
        self.symbols.find(name)
    }

    /// The symbols that hold an address: those that start last before it, aliases of each other.
    ///
    /// ```
    /// # use microslice_symtab::{Catalog, Class, KernelImage};
    /// let map = b"ffffffff81000000 T _stext\nffffffff81000000 T entry_SYSCALL_64
    /// ffffffff81000100 t flush_tlb_func.isra.0\nffffffff81001000 T _etext\n";
    /// let image = KernelImage::from_bytes(map)?;
    /// let symbol = image.symbols_at(0xffff_ffff_8100_0120).next().unwrap();
    /// assert_eq!(symbol.name, "flush_tlb_func.isra.0");
    /// let catalog = Catalog::builtin();
    /// let (rule, entry) = catalog.find(symbol.name).unwrap();
    /// assert_eq!((rule, entry.class), ("flush_tlb_func", Class::IpiServe));
    /// assert_eq!(image.ranges(&catalog).find(0xffff_ffff_8100_0120).unwrap().class, Class::IpiServe);
    /// # Ok::<(), microslice_symtab::Error>(())
    /// ```
    pub fn symbols_at(&self, address: u64) -> impl Iterator<Item = Symbol<'_>> {
        self.symbols.at(address)
    }

    pub(crate) fn functions<'a, T>(
        &'a self,
        wanted: &Prefixes,
        keep: impl Fn(&'a str, Option<&'a str>) -> Option<T>,
    ) -> Vec<(Symbol<'a>, T)> {
        self.symbols.functions(wanted, keep)
    }

    /// The kernel's text, `_stext` up to `_etext`, without that of its start-up (`.init.text`).
    pub fn text(&self) -> std::ops::Range<u64> {
        self.symbols.text()
    }

    /// The critical ranges by a catalogue, and the report about them.
    pub fn ranges(&self, catalog: &Catalog) -> Ranges {
        Ranges::build(self, catalog)
    }

    /// Why an address (a link-time one, or a live one of a kallsyms dump) has its class.
    ///
    /// ```
    /// # use microslice_symtab::{Catalog, Class, KernelImage};
    /// let map = b"ffffffff81000000 T _stext\nffffffff81000000 T entry_SYSCALL_64
    /// ffffffff81000100 t flush_tlb_func.isra.0\nffffffff81001000 T _etext\n";
    /// let why = KernelImage::from_bytes(map)?.explain(&Catalog::builtin(), 0xffff_ffff_8100_0120);
    /// assert_eq!(why.class, Class::IpiServe);
    /// assert_eq!((why.symbols[0].name.as_str(), why.symbols[0].offset), ("flush_tlb_func.isra.0", 0x20));
    /// assert_eq!(why.symbols[0].rule.as_ref().unwrap().name, "flush_tlb_func");
    /// print!("{why}");
    /// # Ok::<(), microslice_symtab::Error>(())
    /// ```
    pub fn explain(&self, catalog: &Catalog, address: u64) -> Explanation {
        Explanation::new(self, catalog, address)
    }
}

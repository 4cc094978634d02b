// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong. Each message names the object and the cause, and what to do where that is known.

use crate::unpack::Compression;
use std::path::PathBuf;

/// Why a kernel image or a catalogue was refused. Nothing is left half done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error about a file.
    #[error("read kernel image {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<Error>,
    },
    /// The operating system refused.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Nothing there.
    #[error("empty file")]
    Empty,
    /// None of the forms a kernel comes in.
    #[error("not a kernel image: neither ELF, bzImage, System.map nor a kallsyms dump ({0})")]
    NotAKernel(&'static str),
    /// A well-formed file of the right form, but of something else than Linux.
    #[error("not a Linux kernel: its symbols lack {0}")]
    NotLinux(&'static str),
    /// An ELF file or bzImage for another machine.
    #[error("not an x86-64 kernel: {0}")]
    Machine(String),
    /// Ends before what its headers promise.
    #[error("truncated or damaged {form}: {detail}")]
    Damaged {
        /// ELF, bzImage, ...
        form: &'static str,
        /// Which part.
        detail: String,
    },
    /// A payload that does not unpack.
    #[error("unpack {compression} payload: {detail}")]
    Unpack {
        /// The format found by its magic.
        compression: Compression,
        /// The decoder's word.
        detail: String,
    },
    /// More of something than [`crate::Limits`] allows.
    #[error("too large: more than {limit} {what}")]
    TooLarge {
        /// What there was too much of.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
    /// No symbols in the ELF file, and no kallsyms tables of a known layout either.
    #[error("no symbols: {0}")]
    NoSymbols(&'static str),
    /// No symbols in the image, and its debug file is missing or another's.
    #[error("no symbols in the image, and no debug file for it: {0}")]
    DebugLink(String),
    /// A kallsyms dump by a reader without privilege.
    #[error(
        "all addresses are zero: the kernel hid them from an unprivileged reader; read /proc/kallsyms as root (kernel.kptr_restrict below 2)"
    )]
    HiddenAddresses,
    /// Debian's `/boot/System.map-*`.
    #[error("a placeholder, not a System.map: \"{0}\"; use the vmlinuz beside it")]
    Placeholder(String),
    /// A line of a System.map or kallsyms dump.
    #[error("line {line}: {detail}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        detail: String,
    },
    /// A catalogue.
    #[error("catalogue {name}:{line}:{column}: {detail}")]
    Catalog {
        /// The file, or whatever the caller calls it.
        name: String,
        /// Counted from 1; 0 if unknown.
        line: usize,
        /// Counted from 1; 0 if unknown.
        column: usize,
        /// What is wrong.
        detail: String,
    },
    /// A module's range in a dump of another boot.
    #[error(
        "slide {slide:#x}: {name} was where the dump says in one boot only; take a new dump, or a dump without modules"
    )]
    LiveOnly {
        /// As asked.
        slide: i64,
        /// The module's function.
        name: String,
    },
    /// A slide that moves a range out of the address space.
    #[error("slide {slide:#x}: range {start:#x}..{end:#x} would leave the address space")]
    Slide {
        /// As asked.
        slide: i64,
        /// First byte.
        start: u64,
        /// One past the last.
        end: u64,
    },
}

impl Error {
    pub(crate) fn damaged(form: &'static str, detail: impl Into<String>) -> Error {
        Error::Damaged { form, detail: detail.into() }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The crate's only unsafe code: mapping a large ELF file instead of reading it.

#![allow(unsafe_code)]

use memmap2::Mmap;
use std::fs::File;
use std::io;

/// Maps `file` read-only. Dropped before [`crate::KernelImage::open`] returns.
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: Mmap::map asks that nobody changes or truncates the file while it is mapped. We cannot stop another
    // process, so the promise is the caller's of KernelImage::open, which documents it; the mapping lives only while
    // that call runs, is read-only, and every read goes through bounds-checked slices of plain bytes, so that a change
    // can give wrong symbols and a truncation SIGBUS, but never a wild access. Small files are read, not mapped.
    unsafe { Mmap::map(file) }
}

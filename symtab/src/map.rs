// SPDX-License-Identifier: MIT OR Apache-2.0
//! The crate's only unsafe code: mapping a file instead of reading it.

#![allow(unsafe_code)]

use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Maps `file` read-only.
pub(crate) fn map(file: &File) -> io::Result<Arc<Mmap>> {
    // SAFETY: Mmap::map asks that nobody changes or truncates the file while it is mapped. We cannot stop another
    // process, so the promise is the caller's of KernelImage::open, which documents it; the mapping is read-only, and
    // every read goes through bounds-checked slices of plain bytes whose values are trusted nowhere, so that a change
    // can give wrong symbols and a truncation SIGBUS, but never a wild access.
    unsafe { Mmap::map(file) }.map(Arc::new)
}

/// A part of a file: mapped, or a copy.
#[derive(Clone, Debug)]
pub(crate) enum Bytes {
    Copied(Vec<u8>),
    Mapped(Arc<Mmap>, Range<usize>),
}

impl Bytes {
    /// `data[range]`, without copying it if `data` is the mapping. An impossible range is empty.
    pub(crate) fn of(data: &[u8], mapping: Option<&Arc<Mmap>>, range: Range<usize>) -> Bytes {
        match mapping {
            Some(mapping) => Bytes::Mapped(Arc::clone(mapping), range),
            None => Bytes::Copied(data.get(range).unwrap_or(&[]).to_vec()),
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Copied(bytes) => bytes,
            Bytes::Mapped(mapping, range) => mapping.get(range.clone()).unwrap_or(&[]),
        }
    }
}

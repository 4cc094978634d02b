// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unpacks what `arch/x86/boot/compressed` packed: one stream, its format told by its magic, up to a limit of bytes.
//!
//! The kernel's build appends the unpacked size (4 bytes) to every format but gzip, so bytes after the stream are
//! not an error. LZ4 is the legacy frame of `lz4c -l`: magic 0x184C2102, then blocks `u32 length, data` of at most
//! 8 MiB unpacked each (lz4_Frame_format.md, "Legacy frame").

use crate::bytes::{slice, u32_at};
use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, Read};

/// A compression format of Linux's boot images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// CONFIG_KERNEL_GZIP
    Gzip,
    /// CONFIG_KERNEL_XZ
    Xz,
    /// CONFIG_KERNEL_ZSTD
    Zstd,
    /// CONFIG_KERNEL_LZ4
    Lz4,
    /// CONFIG_KERNEL_LZMA
    Lzma,
    /// CONFIG_KERNEL_BZIP2
    Bzip2,
    /// CONFIG_KERNEL_LZO: recognised, not unpacked.
    Lzo,
}

/// Dictionaries and windows above this are refused: the kernel's own builds use at most 128 MiB.
const DICTIONARY_KIB: u32 = 192 * 1024;
const ZSTD_WINDOW_LOG: u32 = 27;
const LZ4_BLOCK: usize = 8 << 20;

impl Compression {
    /// By magic, as in the kernel's `lib/decompress.c`.
    pub(crate) fn detect(data: &[u8]) -> Option<Compression> {
        const MAGICS: [(&[u8], Compression); 8] = [
            (b"\x1f\x8b", Compression::Gzip),
            (b"\x1f\x9e", Compression::Gzip),
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"\x02\x21\x4c\x18", Compression::Lz4),
            (b"\x5d\0\0", Compression::Lzma),
            (b"BZh", Compression::Bzip2),
            (b"\x89LZO", Compression::Lzo),
        ];
        MAGICS.iter().find(|(magic, _)| data.starts_with(magic)).map(|&(_, compression)| compression)
    }

    /// Unpacks one stream at the start of `data` into at most `limit` bytes.
    pub(crate) fn unpack(self, data: &[u8], limit: u64) -> Result<Vec<u8>, Error> {
        let failed = |err: io::Error| Error::Unpack { compression: self, detail: err.to_string() };
        match self {
            Compression::Gzip => self.drain(flate2::read::GzDecoder::new(data), limit),
            Compression::Xz => {
                self.drain(lzma_rust2::XzReader::new_mem_limit(data, false, DICTIONARY_KIB), limit)
            }
            Compression::Lzma => {
                let reader = lzma_rust2::LzmaReader::new_mem_limit(data, DICTIONARY_KIB, None);
                self.drain(reader.map_err(failed)?, limit)
            }
            Compression::Zstd => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(data).map_err(failed)?.single_frame();
                decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(failed)?;
                self.drain(decoder, limit)
            }
            Compression::Bzip2 => self.drain(bzip2::read::BzDecoder::new(data), limit),
            Compression::Lz4 => self.unpack_lz4(data, limit),
            Compression::Lzo => Err(Error::Unsupported(self)),
        }
    }

    fn drain(self, reader: impl Read, limit: u64) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        let read = reader.take(limit.saturating_add(1)).read_to_end(&mut out);
        read.map_err(|err| Error::Unpack { compression: self, detail: err.to_string() })?;
        self.within(out, limit)
    }

    fn within(self, out: Vec<u8>, limit: u64) -> Result<Vec<u8>, Error> {
        if out.len() as u64 > limit {
            return Err(Error::TooLarge { what: "bytes unpacked", limit });
        }
        Ok(out)
    }

    fn unpack_lz4(self, data: &[u8], limit: u64) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        let mut block = vec![0; LZ4_BLOCK];
        let mut at = 4;
        // Fewer than 8 bytes left: the appended size, or nothing.
        while data.len().saturating_sub(at) >= 8 {
            let len = u32_at(data, at).unwrap_or(0);
            let packed = slice(data, at as u64 + 4, u64::from(len)).filter(|packed| !packed.is_empty());
            let Some(packed) = packed else {
                let detail = format!("block of {len} bytes at offset {at}: the data ends before it");
                return Err(Error::Unpack { compression: self, detail });
            };
            let unpacked = lz4_flex::block::decompress_into(packed, &mut block);
            let unpacked =
                unpacked.map_err(|err| Error::Unpack { compression: self, detail: err.to_string() })?;
            out.extend_from_slice(block.get(..unpacked).unwrap_or(&[]));
            if out.len() as u64 > limit {
                break;
            }
            at += 4 + packed.len();
        }
        self.within(out, limit)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Compression::Gzip => "gzip",
            Compression::Xz => "xz",
            Compression::Zstd => "zstd",
            Compression::Lz4 => "lz4",
            Compression::Lzma => "lzma",
            Compression::Bzip2 => "bzip2",
            Compression::Lzo => "lzo",
        })
    }
}

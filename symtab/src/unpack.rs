// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unpacks what `arch/x86/boot/compressed` packed: one stream, its format told by its magic, up to a limit of bytes.
//!
//! The kernel's build appends the unpacked size (4 bytes) to every format but gzip, so bytes after the stream are
//! not an error. LZ4 is the legacy frame of `lz4c -l`: magic 0x184C2102, then blocks `u32 length, data` of 8 MiB unpacked
//! each, the last of at most so many (lz4_Frame_format.md, "Legacy frame"). No block needs another, so only those are
//! unpacked that somebody looks at. LZO is lzop's file format as `lib/decompress_unlzo.c` reads it,
//! big-endian: a header, then blocks `u32 unpacked, u32 packed, checksums, data` up to one of unpacked length 0; a block
//! whose two lengths are equal is stored. Checksums are skipped, as the kernel does.

use crate::bytes::{slice, u16_at, u32_at};
use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, Read};
use std::ops::Range;

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
    /// CONFIG_KERNEL_LZO
    Lzo,
}

/// Dictionaries and windows above this are refused: the kernel's own builds use at most 128 MiB.
const DICTIONARY_KIB: u32 = 192 * 1024;
const ZSTD_WINDOW_LOG: u32 = 27;
const LZ4_BLOCK: usize = 8 << 20;
/// lzop's largest block; it writes blocks of 256 KiB.
const LZO_BLOCK: u32 = 64 << 20;

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
    pub(crate) fn unpack(self, data: &[u8], limit: u64) -> Result<Unpacked<'_>, Error> {
        let failed = |err: io::Error| Error::Unpack { compression: self, detail: err.to_string() };
        // The unpacked size stands at the end, put there by gzip or by the kernel's build. Should it be something else,
        // no format packs a kernel to less than a 64th.
        let last = data.len().checked_sub(4).and_then(|at| u32_at(data, at)).unwrap_or(0) as usize;
        let hint = last.min(data.len().saturating_mul(64));
        let bytes = match self {
            Compression::Gzip => self.drain(flate2::read::GzDecoder::new(data), hint, limit),
            Compression::Xz => {
                self.drain(lzma_rust2::XzReader::new_mem_limit(data, false, DICTIONARY_KIB), hint, limit)
            }
            Compression::Lzma => {
                let reader = lzma_rust2::LzmaReader::new_mem_limit(data, DICTIONARY_KIB, None);
                self.drain(reader.map_err(failed)?, hint, limit)
            }
            Compression::Zstd => match zstd_at_once(data, hint, limit) {
                Some(bytes) => Ok(bytes),
                None => {
                    let decoder = zstd::stream::read::Decoder::with_buffer(data).map_err(failed)?;
                    let mut decoder = decoder.single_frame();
                    decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(failed)?;
                    self.drain(decoder, hint, limit)
                }
            },
            Compression::Bzip2 => self.drain(bzip2::read::BzDecoder::new(data), hint, limit),
            Compression::Lz4 => return Unpacked::of_lz4(data, limit),
            Compression::Lzo => self.unpack_lzo(data, limit),
        };
        Ok(Unpacked { bytes: bytes?, blocks: Vec::new() })
    }

    /// Reads until the end, or just beyond the limit. `hint` is how much there probably is: memory for it comes zeroed
    /// from the system, page by page as it is written, and moves no more.
    fn drain(self, mut reader: impl Read, hint: usize, limit: u64) -> Result<Vec<u8>, Error> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut out = vec![0; hint.min(limit).saturating_add(1)];
        let mut len = 0;
        loop {
            if len == out.len() {
                if len > limit {
                    break;
                }
                let more = len.max(1 << 20).min(limit + 1 - len);
                out.resize(len + more, 0);
            }
            match reader.read(out.get_mut(len..).unwrap_or(&mut [])) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(Error::Unpack { compression: self, detail: err.to_string() }),
            }
        }
        out.truncate(len);
        within(out.len(), limit as u64)?;
        Ok(out)
    }

    fn unpack_lzo(self, data: &[u8], limit: u64) -> Result<Vec<u8>, Error> {
        let failed = |detail: &str| Error::Unpack { compression: self, detail: detail.to_owned() };
        let cut = || failed("the data ends inside its header or a block");
        let u32_be = |at: usize| u32_at(data, at).map(u32::swap_bytes).ok_or_else(cut);
        let (flags, mut at) = lzop_header(data).ok_or_else(cut)?;
        // Checksums of the unpacked block (Adler-32, CRC-32), and of the packed one.
        let (of_unpacked, of_packed) = (count(flags, [0x1, 0x100]), count(flags, [0x2, 0x200]));
        let (mut out, mut block) = (Vec::new(), Vec::new());
        loop {
            let unpacked = u32_be(at)?;
            if unpacked == 0 {
                return Ok(out);
            }
            let packed = u32_be(at + 4)?;
            if unpacked > LZO_BLOCK || packed > unpacked {
                return Err(failed("a block's lengths are out of range"));
            }
            let checksums = if packed < unpacked { of_unpacked + of_packed } else { of_unpacked };
            at += 8 + 4 * checksums;
            let body = slice(data, at as u64, u64::from(packed)).ok_or_else(cut)?;
            at += body.len();
            if body.len() == unpacked as usize {
                out.extend_from_slice(body);
            } else {
                block.resize(unpacked as usize, 0);
                let len = lzokay::decompress::decompress(body, &mut block);
                let len = len.map_err(|err| failed(&err.to_string()))?;
                out.extend_from_slice(block.get(..len).unwrap_or(&[]));
            }
            within(out.len(), limit)?;
        }
    }
}

/// What a payload unpacks to; of LZ4 only what was asked for, and zeros elsewhere.
pub(crate) struct Unpacked<'a> {
    bytes: Vec<u8>,
    /// Blocks of LZ4, in order, and how much of each is unpacked.
    blocks: Vec<(&'a [u8], usize)>,
}

impl<'a> Unpacked<'a> {
    fn of_lz4(data: &'a [u8], limit: u64) -> Result<Unpacked<'a>, Error> {
        let (mut blocks, mut at) = (Vec::new(), 4);
        // Fewer than 8 bytes left: the appended size, or nothing.
        while data.len().saturating_sub(at) >= 8 {
            let len = u32_at(data, at).unwrap_or(0);
            let block = slice(data, at as u64 + 4, u64::from(len)).filter(|block| !block.is_empty());
            let cut = || lz4_failed(format!("block of {len} bytes at offset {at}: the data ends before it"));
            let block = block.ok_or_else(cut)?;
            at += 4 + block.len();
            blocks.push((block, 0));
            within(blocks.len() * LZ4_BLOCK, limit)?;
        }
        // Zeroed memory of the system takes no time and no room before it is written.
        Ok(Unpacked { bytes: vec![0; blocks.len() * LZ4_BLOCK], blocks })
    }

    /// LZ4's are rounded up to blocks until [`Unpacked::fill`] has come upon the end.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Unpacks some parts, as far as they are there: a block up to the last byte that is asked for.
    pub(crate) fn fill(&mut self, parts: &[Range<u64>]) -> Result<(), Error> {
        let count = self.blocks.len();
        for (number, (packed, have)) in self.blocks.iter_mut().enumerate() {
            let start = number * LZ4_BLOCK;
            let block = start as u64..(start + LZ4_BLOCK) as u64;
            let inside = parts.iter().filter(|part| part.start < block.end && part.end > block.start);
            let Some(end) = inside.map(|part| part.end.min(block.end)).max() else { continue };
            let want = (end - block.start) as usize;
            let Some(room) = self.bytes.get_mut(start..start + want).filter(|_| want > *have) else {
                continue;
            };
            *have = lzzzz::lz4::decompress_partial(packed, room, want)
                .map_err(|_| lz4_failed(format!("block {number} is damaged")))?;
            if *have < want && number + 1 < count {
                let detail = format!("block {number} is of {have} bytes: only the last may be below 8 MiB");
                return Err(lz4_failed(detail));
            }
            if *have < want {
                self.bytes.truncate(start + *have);
            }
        }
        Ok(())
    }
}

/// Unpacks a frame of at most `hint` bytes without a window beside them, which a stream needs and which is as large as
/// they are.
fn zstd_at_once(data: &[u8], hint: usize, limit: u64) -> Option<Vec<u8>> {
    let frame = data.get(..zstd::zstd_safe::find_frame_compressed_size(data).ok()?)?;
    let mut out = vec![0; hint.min(usize::try_from(limit).unwrap_or(usize::MAX))];
    let len = zstd::bulk::decompress_to_buffer(frame, &mut out).ok()?;
    out.truncate(len);
    Some(out)
}

fn within(bytes: usize, limit: u64) -> Result<(), Error> {
    if bytes as u64 > limit {
        return Err(Error::TooLarge { what: "bytes unpacked", limit });
    }
    Ok(())
}

fn lz4_failed(detail: String) -> Error {
    Error::Unpack { compression: Compression::Lz4, detail }
}

/// lzop's flags, and where its first block starts.
fn lzop_header(data: &[u8]) -> Option<(u32, usize)> {
    const NEW: u16 = 0x0940;
    const HAS_FILTER: u32 = 0x800;
    let version = u16_at(data, 9)?.swap_bytes();
    // After the magic: version, library's version, version needed (2 bytes each), method, and level since 0.940.
    let flags_at = if version >= NEW { 17 } else { 16 };
    let flags = u32_at(data, flags_at)?.swap_bytes();
    let filter = if flags & HAS_FILTER == 0 { 0 } else { 4 };
    let times = if version >= NEW { 12 } else { 8 }; // mode, mtime
    let name_at = flags_at + 4 + filter + times;
    let name = usize::from(*data.get(name_at)?);
    Some((flags, name_at + 1 + name + 4))
}

fn count(flags: u32, bits: [u32; 2]) -> usize {
    bits.iter().filter(|&&bit| flags & bit != 0).count()
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

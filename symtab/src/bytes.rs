// SPDX-License-Identifier: MIT OR Apache-2.0
//! Little-endian reads at an offset that the input may have chosen: `None` instead of a panic.

fn array<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(crate) fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    array(data, at).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    array(data, at).map(u32::from_le_bytes)
}

pub(crate) fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    array(data, at).map(u64::from_le_bytes)
}

/// `len` bytes at `at`, both taken from the input.
pub(crate) fn slice(data: &[u8], at: u64, len: u64) -> Option<&[u8]> {
    let start = usize::try_from(at).ok()?;
    let end = usize::try_from(at.checked_add(len)?).ok()?;
    data.get(start..end)
}

/// The bytes from `at` up to, without, the next NUL.
pub(crate) fn c_str(data: &[u8], at: usize) -> Option<&[u8]> {
    let rest = data.get(at..)?;
    rest.get(..memchr::memchr(0, rest)?)
}

/// `value` rounded up to a multiple of `to`, a power of two, as the kernel's tables are aligned.
pub(crate) fn align(value: usize, to: usize) -> Option<usize> {
    value.checked_next_multiple_of(to)
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds and decodes the kallsyms tables inside an unpacked kernel.
//!
//! `scripts/kallsyms.c` emits these tables, each aligned to 8 bytes (in 7.2 to 4), little-endian, no pointers between them:
//!
//! | table | contents |
//! |---|---|
//! | num_syms | u32 n (u64 before 4.20: the same bytes while n is small) |
//! | names | n entries: length (u8; since 6.1 two bytes if bit 7 of the first is set: low 7 bits first), then that many tokens |
//! | markers | offset of every 256th name in names: u32 each (u64 before 4.20) |
//! | seqs_of_names | 3 bytes for each name, since 6.2 |
//! | token_table | 256 NUL-terminated strings; expanded and joined they give the type letter and the name |
//! | token_index | 256 x u16: where each string starts |
//! | offsets | i32 each, and relative_base u64 (CONFIG_KALLSYMS_BASE_RELATIVE, since 4.6; the only form since 6.11) |
//! | addresses | u64 each, without that option |
//! | offsets | i32 each, from the place of the offset itself; no base (seen in 7.2) |
//!
//! Order up to 6.3: offsets, relative_base (or addresses), num_syms, names, markers, [seqs_of_names], token_table,
//! token_index. Since 6.4: num_syms, names, markers, token_table, token_index, offsets, relative_base (or addresses),
//! seqs_of_names. So `names..token_index` is one run in both, and the addresses lie on one side of it.
//!
//! Address (kernel/kallsyms.c, kallsyms_sym_address): with CONFIG_KALLSYMS_ABSOLUTE_PERCPU an offset >= 0 is the address
//! and a negative one stands for relative_base - 1 - offset; without it (UP, and from 6.15 all) relative_base + (u32)offset.
//! The tables are sorted by address, which every reading is held to.
//!
//! Held against real kernels (Debian's 5.10, 6.1, 6.12 and 7.2). All other layouts are tested on tables built by the tests only.
//!
//! The assembly that it writes goes to `.rodata`, so the caller gives that section.
//!
//! Search: token_index is a run of 256 rising u16 from 0 whose strings end right before it. It is looked for first after
//! places where the digits stand for themselves in token_table, as in every kernel so far, then everywhere. From there num_syms is
//! looked for backwards, and holds only if walking n names ends where markers that match every 256th name begin.
//! Work is bounded: the search for token_index is linear, few of them are followed, and all walks share one budget.

use crate::bytes::{align, c_str, u16_at, u32_at, u64_at};
use crate::error::Error;
use crate::image::Limits;
use crate::symbols::Builder;
use memchr::memmem;

/// Longest name accepted, the type letter included: KSYM_NAME_LEN is 512 since 6.1.
const NAME_LEN: usize = 512;
/// Names looked at over all attempts; a kernel has some 100,000 to 300,000.
const WALK_BUDGET: u64 = 1 << 26;
/// Token tables tried: a kernel has one.
const TABLES: usize = 16;
/// How far before token_table num_syms is looked for: names of a kernel are 1 to 3 MiB.
const NAMES_SPAN: usize = 64 << 20;
const TOKENS: usize = 256;
/// Ten tokens in a row of token_table.
const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0";
/// From there to token_index: the other tokens have 2 to 20 bytes each.
const DIGITS_TO_INDEX: usize = 16 << 10;
/// Lowest address of the kernel's half.
const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;

struct Tokens<'a> {
    table: usize,
    index_end: usize,
    strings: Vec<&'a [u8]>,
}

struct Names {
    /// Where num_syms is.
    count_at: usize,
    count: usize,
    /// Where the first name's length is.
    names_at: usize,
    /// Of every table, in bytes: 8 or 4.
    align: usize,
}

/// Decodes the first set of tables that holds together.
///
/// `address_of`: the address of a byte of `data` in the running kernel.
pub(crate) fn read(
    data: &[u8],
    address_of: impl Fn(usize) -> Option<u64>,
    limits: &Limits,
) -> Result<Builder, Error> {
    let mut budget = WALK_BUDGET;
    let mut seen = "no kallsyms token table found (is CONFIG_KALLSYMS off, or the image encrypted?)";
    let digits = memmem::find_iter(data, DIGITS).take(TABLES).map(|at| (at & !3, DIGITS_TO_INDEX));
    for (mut at, span) in digits.chain([(0, data.len())]) {
        let end = data.len().min(at.saturating_add(span));
        for _ in 0..TABLES {
            let Some(tokens) = next_tokens(data, &mut at, end) else { break };
            seen = "a kallsyms token table, but no names and markers before it";
            let Some(names) = find_names(data, &tokens, limits, &mut budget) else { continue };
            seen = "kallsyms names, but no addresses of a known layout beside them";
            let Some(addresses) = find_addresses(data, &address_of, &tokens, &names) else { continue };
            return expand(data, &tokens, &names, &addresses, limits);
        }
    }
    Err(Error::NoSymbols(seen))
}

/// The next token_index at or after `*at`, which moves behind it, but before `end`.
fn next_tokens<'a>(data: &'a [u8], at: &mut usize, end: usize) -> Option<Tokens<'a>> {
    while let Some(chunk) = data.get(*at..at.checked_add(TOKENS * 2)?).filter(|_| *at < end) {
        let here = *at;
        *at += 4;
        if chunk.starts_with(&[0, 0]) && chunk.get(2..4) != Some(&[0, 0]) {
            let tokens = rising(chunk).and_then(|index| token_strings(data, here, &index));
            if tokens.is_some() {
                return tokens;
            }
        }
    }
    None
}

fn rising(chunk: &[u8]) -> Option<Vec<usize>> {
    let mut index = Vec::with_capacity(TOKENS);
    for pair in chunk.chunks_exact(2) {
        let value = usize::from(u16_at(pair, 0)?);
        if index.last().is_some_and(|&last| value <= last) {
            return None;
        }
        index.push(value);
    }
    Some(index)
}

/// The strings that `index` points at, if they end right before it.
fn token_strings<'a>(data: &'a [u8], index_at: usize, index: &[usize]) -> Option<Tokens<'a>> {
    let last = *index.last()?;
    // The last string's length is unknown: try every aligned start of the table that leaves it 0..NAME_LEN bytes.
    let nearest = index_at.checked_sub(last + 1)? & !3;
    let starts = (nearest.saturating_sub(NAME_LEN)..=nearest).rev().step_by(4);
    starts.map(|table| table & !3).find_map(|table| {
        let text = c_str(data.get(..index_at)?, table + last)?;
        let end = table + last + text.len() + 1;
        if ![align(end, 4), align(end, 8)].contains(&Some(index_at)) {
            return None;
        }
        let ends = index.iter().skip(1).map(|next| table + next).chain([end]);
        let strings = index.iter().zip(ends).map(|(start, end)| token_string(data, table + start, end));
        Some(Tokens { table, index_end: index_at + TOKENS * 2, strings: strings.collect::<Option<_>>()? })
    })
}

/// A string without its NUL, which is at `end - 1`.
fn token_string(data: &[u8], start: usize, end: usize) -> Option<&[u8]> {
    let (&nul, text) = data.get(start..end)?.split_last()?;
    (nul == 0 && text.iter().all(u8::is_ascii_graphic)).then_some(text)
}

/// The length of the name at `at` in tokens, and where its tokens start.
fn name_at(data: &[u8], at: usize) -> Option<(usize, usize)> {
    let first = usize::from(*data.get(at)?);
    if first & 0x80 == 0 {
        return Some((first, at + 1));
    }
    let second = usize::from(*data.get(at + 1)?);
    Some(((first & 0x7f) | (second << 7), at + 2))
}

fn find_names(data: &[u8], tokens: &Tokens<'_>, limits: &Limits, budget: &mut u64) -> Option<Names> {
    let end = tokens.table & !3;
    let words = data.get(end.saturating_sub(NAMES_SPAN)..end)?.rchunks_exact(4);
    for (word, count_at) in words.zip((0..end).rev().step_by(4).map(|last| last - 3)) {
        let count = word.try_into().map_or(0, u32::from_le_bytes) as usize;
        if count == 0 || count > limits.symbols || count > (tokens.table - count_at) / 2 {
            continue;
        }
        for align in [8, 4] {
            // A count of 8 bytes, or of 4.
            if count_at % align != 0 || (align == 8 && u32_at(data, count_at + 4) != Some(0)) {
                continue;
            }
            let names = Names { count_at, count, names_at: count_at + align, align };
            if names_hold(data, tokens.table, &names, budget) {
                return Some(names);
            }
            if *budget == 0 {
                return None;
            }
        }
    }
    None
}

/// Whether `count` names end where their markers are, and the markers (and seqs_of_names) where the tokens start.
fn names_hold(data: &[u8], table: usize, names: &Names, budget: &mut u64) -> bool {
    let mut marks = Vec::new();
    let mut at = names.names_at;
    for number in 0..names.count {
        if *budget == 0 {
            return false;
        }
        *budget -= 1;
        if number % 256 == 0 {
            marks.push((at - names.names_at) as u64);
        }
        match name_at(data, at) {
            Some((len, start)) if (1..=NAME_LEN).contains(&len) && start + len <= table => at = start + len,
            _ => return false,
        }
    }
    let Some(markers) = align(at, names.align) else { return false };
    let wide = marks.iter().enumerate().all(|(i, &mark)| u64_at(data, markers + i * 8) == Some(mark));
    let narrow =
        marks.iter().enumerate().all(|(i, &mark)| u32_at(data, markers + i * 4).map(u64::from) == Some(mark));
    [(wide, 8), (narrow, 4)].into_iter().any(|(holds, size)| {
        let Some(end) = align(markers + marks.len() * size, names.align) else { return false };
        holds && (end == table || align(end + names.count * 3, names.align) == Some(table))
    })
}

/// The addresses on whichever side of the run they are.
fn find_addresses(
    data: &[u8],
    address_of: impl Fn(usize) -> Option<u64>,
    tokens: &Tokens<'_>,
    names: &Names,
) -> Option<Vec<u64>> {
    let count = names.count;
    let offsets_len = align(count * 4, names.align)?;
    let after = align(tokens.index_end, names.align)?;
    let before = |len: usize| names.count_at.checked_sub(len);
    relative(data, after, count, after + offsets_len)
        .or_else(|| relative(data, before(8 + offsets_len)?, count, before(8)?))
        .or_else(|| absolute(data, after, count))
        .or_else(|| absolute(data, before(count * 8)?, count))
        .or_else(|| by_place(data, after, address_of(after)?, count))
}

/// Sorted, and reaching into the kernel's half.
fn plausible(addresses: Vec<u64>) -> Option<Vec<u64>> {
    let sorted = addresses.is_sorted();
    (sorted && addresses.last().is_some_and(|&last| last >= KERNEL_HALF)).then_some(addresses)
}

fn relative(data: &[u8], offsets: usize, count: usize, base: usize) -> Option<Vec<u64>> {
    let base = u64_at(data, base).filter(|&base| base >= KERNEL_HALF)?;
    let table = data.get(offsets..offsets + count * 4)?;
    let offsets: Option<Vec<u32>> = table.chunks_exact(4).map(|bytes| u32_at(bytes, 0)).collect();
    let offsets = offsets?;
    let percpu = offsets.iter().any(|&offset| offset.cast_signed() < 0);
    let address = |&offset: &u32| match offset.cast_signed() {
        negative @ ..0 if percpu => base.checked_add(u64::from(negative.unsigned_abs()) - 1),
        _ if percpu => Some(u64::from(offset)),
        _ => base.checked_add(u64::from(offset)),
    };
    plausible(offsets.iter().map(address).collect::<Option<Vec<u64>>>()?)
}

/// Offsets from where they are themselves; `place` is the first one's address.
fn by_place(data: &[u8], offsets: usize, place: u64, count: usize) -> Option<Vec<u64>> {
    let table = data.get(offsets..offsets.checked_add(count.checked_mul(4)?)?)?;
    let places = (0..).map(|number: u64| place.checked_add(number * 4));
    let address = |(bytes, place): (&[u8], Option<u64>)| {
        place?.checked_add_signed(u32_at(bytes, 0)?.cast_signed().into())
    };
    plausible(table.chunks_exact(4).zip(places).map(address).collect::<Option<Vec<u64>>>()?)
}

fn absolute(data: &[u8], at: usize, count: usize) -> Option<Vec<u64>> {
    let table = data.get(at..at + count * 8)?;
    plausible(table.chunks_exact(8).map(|bytes| u64_at(bytes, 0)).collect::<Option<Vec<u64>>>()?)
}

fn expand(
    data: &[u8],
    tokens: &Tokens<'_>,
    names: &Names,
    addresses: &[u64],
    limits: &Limits,
) -> Result<Builder, Error> {
    let damaged =
        |number: usize| Error::damaged("kallsyms table", format!("name {number} of {}", names.count));
    let mut builder = Builder::with_capacity(limits, names.count, names.count * 24);
    let tokens: [Token<'_>; TOKENS] =
        std::array::from_fn(|token| Token::new(tokens.strings.get(token).copied().unwrap_or(&[])));
    let mut at = names.names_at;
    for (number, &address) in addresses.iter().enumerate() {
        let (len, start) = name_at(data, at).ok_or_else(|| damaged(number))?;
        at = start + len;
        let packed = data.get(start..at).ok_or_else(|| damaged(number))?;
        let len = builder.push_with_letter(address, |text| {
            // All are there, and ASCII: see token_string.
            packed
                .iter()
                .filter_map(|&token| tokens.get(usize::from(token)))
                .for_each(|token| token.append_to(text));
        })?;
        if !(1..=NAME_LEN).contains(&len) {
            return Err(damaged(number));
        }
    }
    Ok(builder)
}

/// A token's text; a short one is copied as 16 bytes at once, since lengths are what takes the time.
struct Token<'a> {
    head: [u8; 16],
    text: &'a [u8],
}

impl<'a> Token<'a> {
    fn new(text: &'a [u8]) -> Token<'a> {
        let mut head = [0; 16];
        head.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
        Token { head, text }
    }

    fn append_to(&self, out: &mut Vec<u8>) {
        let len = self.text.len();
        if len > self.head.len() {
            out.extend_from_slice(self.text);
            return;
        }
        let end = out.len() + len;
        out.extend_from_slice(&self.head);
        out.truncate(end);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! System.map and /proc/kallsyms: lines of `ADDRESS LETTER NAME`, and in a live dump a tab and `[module]`.
//!
//! Only such a dump tells where modules are.

use crate::error::Error;
use crate::symbols::Builder;

/// Address, letter, name, module ("" for the kernel proper).
fn parse(line: &str) -> Option<(u64, u8, &str, &str)> {
    let (address, rest) = line.split_once(' ')?;
    let (letter, rest) = rest.split_once(' ')?;
    let (&[letter], 8..=16) = (letter.as_bytes(), address.len()) else { return None };
    let hex = address.bytes().all(|b| b.is_ascii_hexdigit());
    if !hex || !(letter.is_ascii_alphabetic() || letter == b'?') {
        return None;
    }
    let address = u64::from_str_radix(address, 16).ok()?;
    let (name, module) = rest.split_once('\t').unwrap_or((rest, ""));
    Some((address, letter, name.trim_end(), module.trim_end().trim_start_matches('[').trim_end_matches(']')))
}

fn first_line(data: &[u8]) -> Option<&str> {
    let head = data.get(..data.len().min(1024))?;
    let line = head.split(|&b| b == b'\n').next()?;
    std::str::from_utf8(line).ok()
}

/// Whether the first line is one of ours.
pub(crate) fn is_symbol_list(data: &[u8]) -> bool {
    first_line(data).is_some_and(|line| parse(line).is_some())
}

/// Reads the list; true if it is a live dump (it names modules).
pub(crate) fn read(data: &[u8], builder: &mut Builder) -> Result<bool, Error> {
    let text = std::str::from_utf8(data).map_err(|err| {
        Error::NotAKernel(if err.error_len().is_some() { "not UTF-8 text" } else { "text cut off" })
    })?;
    let (mut modules, mut hidden, mut lines) = (false, true, 0_usize);
    for (index, line) in text.lines().enumerate() {
        let bad = |detail: String| Error::Line { line: index + 1, detail };
        if line.is_empty() {
            continue;
        }
        let (address, letter, name, module) =
            parse(line).ok_or_else(|| bad("not ADDRESS LETTER NAME".to_owned()))?;
        if name.contains(' ') && name.contains("System.map") {
            return Err(Error::Placeholder(name.chars().take(200).collect()));
        }
        if name.is_empty() || name.contains([' ', '\0']) {
            return Err(bad("a symbol's name is one word".to_owned()));
        }
        lines += 1;
        modules |= !module.is_empty();
        hidden &= address == 0;
        let module = if module.is_empty() { 0 } else { builder.module(module)? };
        builder.push(address, letter, name.as_bytes(), module)?;
    }
    if hidden && lines > 0 {
        return Err(Error::HiddenAddresses);
    }
    Ok(modules)
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prints the critical ranges of a kernel image, or all its symbols as `nm` would, or why an address has its class:
//! `ranges [--symbols | --explain ADDRESS] FILE`.

use microslice_symtab::{Catalog, Error, KernelImage};
use std::io::Write;

const USAGE: &str = "usage: ranges [--symbols | --explain ADDRESS] FILE";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let open = |path: &str| KernelImage::open(path).map_err(|err: Error| err.to_string());
    let mut out = std::io::BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    match args.as_slice() {
        ["--symbols", path] => {
            for symbol in open(path)?.symbols() {
                let mut line = *b"................ . ";
                for (digit, shift) in line.iter_mut().zip((0..64).step_by(4).rev()) {
                    *digit = b"0123456789abcdef"[(symbol.address >> shift & 0xf) as usize];
                }
                line[17] = symbol.kind as u8;
                out.write_all(&line)?;
                out.write_all(symbol.name.as_bytes())?;
                match symbol.module {
                    Some(module) => writeln!(out, "\t[{module}]")?,
                    None => out.write_all(b"\n")?,
                }
            }
        }
        ["--explain", address, path] => {
            let address = u64::from_str_radix(address.trim_start_matches("0x"), 16)?;
            write!(out, "{}", open(path)?.explain(&Catalog::builtin(), address))?;
        }
        [path] => {
            let ranges = open(path)?.ranges(&Catalog::builtin());
            for range in &ranges {
                writeln!(
                    out,
                    "{:#x} {:#x} {} {}",
                    range.start,
                    range.end,
                    range.class,
                    range.names.join(" ")
                )?;
            }
            write!(out, "{}", ranges.report())?;
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

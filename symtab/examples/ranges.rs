// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prints the critical ranges of a kernel image, or all its symbols as `nm` would: `ranges [--symbols] FILE`.

use microslice_symtab::{Catalog, Error, KernelImage};
use std::io::Write;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let all = args.first().is_some_and(|arg| arg == "--symbols");
    let path = args.pop().ok_or("usage: ranges [--symbols] FILE")?;
    let image = KernelImage::open(&path).map_err(|err: Error| err.to_string())?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if all {
        for symbol in image.symbols() {
            writeln!(out, "{:016x} {} {}", symbol.address, symbol.kind, symbol.name)?;
        }
        return Ok(());
    }
    let ranges = image.ranges(&Catalog::builtin());
    for range in &ranges {
        writeln!(out, "{:#x} {:#x} {} {}", range.start, range.end, range.class, range.names.join(" "))?;
    }
    write!(out, "{}", ranges.report())?;
    Ok(())
}

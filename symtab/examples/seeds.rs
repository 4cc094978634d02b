// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes a seed of each form and layout for the fuzz target `image`: the small kernels of the tests.

#[path = "../tests/support/mod.rs"]
mod support;

use support::*;

fn main() -> std::io::Result<()> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/image");
    let small = elf_with_kallsyms(&kernel(), Layout::Old);
    let packed = [
        ("gzip", gzip(&small)),
        ("xz", xz(&small)),
        ("zstd", zstd(&small)),
        ("lz4", lz4(&small)),
        ("lzma", lzma(&small)),
        ("bzip2", bzip2(&small)),
        ("lzo", lzo(&small)),
    ];
    let layout = |layout| {
        let name = format!("{layout:?}").to_lowercase();
        (name, elf_with_kallsyms(&fitting(kernel(), layout), layout))
    };
    let forms = packed.into_iter().map(|(name, data)| (name.to_owned(), bzimage(&data, small.len())));
    let elf = [("elf".to_owned(), elf_with_symtab(&kernel(), true))];
    for (name, image) in forms.chain(elf).chain(LAYOUTS.into_iter().map(layout)) {
        std::fs::write(format!("{folder}/{name}"), image)?;
    }
    Ok(())
}

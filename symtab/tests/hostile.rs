// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random, truncated and mutated input: an error or a kernel, never a panic, and ranges keep their invariants.

mod support;

use microslice_symtab::{Catalog, KernelImage, Limits};
use proptest::prelude::*;
use std::sync::LazyLock;
use support::*;

static IMAGES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let vmlinux = elf_with_kallsyms(&large_kernel(), Layout::Old);
    let two_blocks = stripped(&large_kernel(), Layout::New, 8 << 20, 0);
    let mut images = vec![
        list(&kernel()).into_bytes(),
        elf_with_symtab(&kernel(), true),
        bzimage(&gzip(&vmlinux), vmlinux.len()),
        bzimage(&xz(&vmlinux), vmlinux.len()),
        bzimage(&zstd(&vmlinux), vmlinux.len()),
        bzimage(&lz4(&vmlinux), vmlinux.len()),
        bzimage(&lz4(&two_blocks), two_blocks.len()),
        bzimage(&lzma(&vmlinux), vmlinux.len()),
        bzimage(&bzip2(&vmlinux), vmlinux.len()),
        bzimage(&lzo(&vmlinux), vmlinux.len()),
    ];
    images.extend(LAYOUTS.iter().map(|&layout| elf_with_kallsyms(&fitting(large_kernel(), layout), layout)));
    images
});

fn check(data: &[u8]) {
    let limits = Limits { unpacked: 16 << 20, ..Limits::default() };
    let Ok(image) = KernelImage::from_bytes_within(data, &limits) else { return };
    let text = image.text();
    let ranges = image.ranges(&Catalog::builtin());
    assert!(
        ranges
            .iter()
            .all(|range| text.start <= range.start && range.start < range.end && range.end <= text.end)
    );
    assert!(ranges.as_slice().windows(2).all(|pair| pair[0].end <= pair[1].start));
    assert!(!ranges.report().to_string().is_empty());
}

/// 512 cases; PROPTEST_CASES asks for more.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.max(512), failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_bytes(data in prop::collection::vec(any::<u8>(), 0..4096), magic in 0..6_usize) {
        let magics: [&[u8]; 6] = [b"", b"\x7fELF\x02\x01\x01", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x5d\0\0", b"\x02\x21\x4c\x18"];
        check(&[magics[magic], &data].concat());
    }

    #[test]
    fn cut(which in 0..17_usize, at in any::<prop::sample::Index>()) {
        let image = &IMAGES[which];
        check(&image[..at.index(image.len())]);
    }

    #[test]
    fn mutated(which in 0..17_usize, edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut image = IMAGES[which].clone();
        for (at, value) in edits {
            let at = at.index(image.len());
            image[at] = value;
        }
        check(&image);
    }

    /// Headers, where lengths and offsets are.
    #[test]
    fn mutated_headers(which in 0..17_usize, front in any::<bool>(), at in 0..0x260_usize, value: u32) {
        let mut image = IMAGES[which].clone();
        let at = if front { at } else { image.len() - at };
        let end = (at + 4).min(image.len());
        image[at.min(end)..end].copy_from_slice(&value.to_le_bytes()[..end - at.min(end)]);
        check(&image);
    }
}

/// Tables that invite the search for names to walk the same bytes again and again.
#[test]
fn a_maze_of_names_ends_soon() {
    let tables = kallsyms(&kernel(), Layout::Old, 0);
    let token_table = tables.windows(4).position(|bytes| bytes == b"~0\0_").unwrap();
    // Each 8 bytes read as a count of 2^20 names, and as names of length 1 or 16.
    let mut maze = elf_with_kallsyms(&[], Layout::Old);
    for _ in 0..1 << 20 {
        maze.extend([0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00]);
    }
    for _ in 0..1 << 20 {
        maze.extend([0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01]);
    }
    maze.extend(&tables[token_table..]);
    let start = std::time::Instant::now();
    assert!(KernelImage::from_bytes(&maze).is_err());
    assert!(start.elapsed().as_secs() < 300, "{:?}", start.elapsed());
}

/// Decoys of token tables, each followed by a search of its own.
#[test]
fn many_token_tables_end_soon() {
    let tables = kallsyms(&[], Layout::Old, 0);
    let token_table = tables.windows(4).position(|bytes| bytes == b"~0\0_").unwrap();
    let mut decoys = elf_with_kallsyms(&[], Layout::Old);
    while decoys.len() < 32 << 20 {
        decoys.extend(&tables[token_table..]);
    }
    let start = std::time::Instant::now();
    assert!(KernelImage::from_bytes(&decoys).is_err());
    assert!(start.elapsed().as_secs() < 300, "{:?}", start.elapsed());
}

/// A seed that is refused at once teaches a fuzzer nothing.
#[test]
fn every_seed_of_the_fuzzer_is_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/image");
    let mut seeds = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let image = KernelImage::from_bytes(&std::fs::read(&path).unwrap());
        assert!(image.is_ok(), "{}: {:?}", path.display(), image.err());
        seeds += 1;
    }
    assert!(seeds >= 15, "{seeds} seeds");
}

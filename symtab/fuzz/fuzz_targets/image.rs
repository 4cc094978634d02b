// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes as a kernel image: an error, or a kernel whose symbols are sorted and whose ranges are sorted, disjoint, inside
//! its text, and what `explain` says of their first bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use microslice_symtab::kaslr::Anchors;
use microslice_symtab::{Catalog, KernelImage, Limits};
use std::sync::LazyLock;

static CATALOG: LazyLock<Catalog> = LazyLock::new(Catalog::builtin);

fuzz_target!(|data: &[u8]| {
    let limits = Limits { unpacked: 16 << 20, ..Limits::default() };
    let Ok(image) = KernelImage::from_bytes_within(data, &limits) else { return };
    let text = image.text();
    assert!(image.symbols().is_sorted_by_key(|symbol| symbol.address));
    let ranges = image.ranges(&CATALOG);
    for range in &ranges {
        assert!(text.start <= range.start && range.start < range.end && range.end <= text.end);
        assert_eq!(image.explain(&CATALOG, range.start).class, range.class);
    }
    assert!(ranges.as_slice().windows(2).all(|pair| pair[0].end <= pair[1].start));
    let _ = (Anchors::of(&image), image.version(), ranges.report().to_string());
});

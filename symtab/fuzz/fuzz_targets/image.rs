// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes as a kernel image: an error or a kernel whose ranges are sorted, disjoint and inside its text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use microslice_symtab::{Catalog, KernelImage, Limits};

fuzz_target!(|data: &[u8]| {
    let limits = Limits { unpacked: 16 << 20, ..Limits::default() };
    let Ok(image) = KernelImage::from_bytes_within(data, &limits) else { return };
    let text = image.text();
    let ranges = image.ranges(&Catalog::builtin());
    for range in &ranges {
        assert!(text.start <= range.start && range.start < range.end && range.end <= text.end);
    }
    assert!(ranges.as_slice().windows(2).all(|pair| pair[0].end <= pair[1].start));
});

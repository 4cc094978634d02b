// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any text as a user's catalogue: an error with a place, or entries that override the built-in ones.
#![no_main]

use libfuzzer_sys::fuzz_target;
use microslice_symtab::Catalog;

fuzz_target!(|text: &str| {
    let Ok(user) = Catalog::from_yaml("fuzz", text) else { return };
    let merged = Catalog::builtin().with(user.clone());
    for (name, entry) in user.iter() {
        assert_eq!(merged.find(name), Some((name, entry)));
    }
});

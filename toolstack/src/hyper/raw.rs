// SPDX-License-Identifier: GPL-3.0-only
//! Generated from the public headers of the tree that MICROSLICE_XEN_TREE named. The compile-time assertions in it
//! hold the Rust layouts to the C ones.
#![allow(warnings, clippy::all, clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]

include!(concat!(env!("OUT_DIR"), "/raw.rs"));

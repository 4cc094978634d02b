// SPDX-License-Identifier: MIT OR Apache-2.0
//! Linux guest kernel images in, critical code ranges out.
//!
//! Owns: reading whatever the host has of a guest kernel (ELF vmlinux, System.map, a `/proc/kallsyms` dump, a
//! bzImage), the catalogue of kernel functions whose preemption stalls sibling vCPUs, and the sorted, disjoint
//! ranges that the hypervisor is given. Refuses: guessing. What cannot be read is an [`Error`] that says why, what a
//! kernel lacks is named in the [`Report`], and nothing here talks to a hypervisor.
//!
//! Invariants:
//! - Every byte comes from a guest's owner and may be hostile: bounded by [`Limits`] in time and memory, never a panic.
//! - Only code gets a class: between `_stext` and `_etext`, never data, never `.init.text`; of a module only what the catalogue
//!   names with that module, in a dump of a live kernel.
//! - [`Ranges`] are sorted, disjoint and not empty; ranges that touch and have one class are one range.
//! - Addresses are link-time ones, or a live kernel's in a kallsyms dump. [`Ranges::slide`] moves them by KASLR's slide,
//!   which [`kaslr`] finds from two anchors that must agree.
//!
//! ```no_run
//! use microslice_symtab::{Catalog, KernelImage};
//! let image = KernelImage::open("/boot/vmlinuz-6.1.0-56-amd64")?;
//! let ranges = image.ranges(&Catalog::builtin());
//! print!("{}", ranges.report());
//! for range in ranges.iter() {
//!     println!("{:#x}..{:#x} {}", range.start, range.end, range.class);
//! }
//! # Ok::<(), microslice_symtab::Error>(())
//! ```
#![deny(unsafe_code)]
#![warn(clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::indexing_slicing))]

mod bytes;
mod bzimage;
mod catalog;
mod class;
mod debuglink;
mod elf;
mod error;
mod explain;
mod hex;
mod identity;
mod image;
mod kallsyms;
pub mod kaslr;
mod map;
mod ranges;
mod report;
mod symbols;
mod text;
mod unpack;
mod version;

pub use catalog::{Catalog, Entry};
pub use class::{Class, UnknownClass};
pub use error::Error;
pub use explain::{Explanation, Holder, Rule};
pub use identity::{BANNER_BYTES, Identity, OtherKernel, banner_in};
pub use image::{KernelImage, Kind, Limits};
pub use ranges::{Range, Ranges};
pub use report::{ClassReport, Report};
pub use symbols::Symbol;
pub use unpack::Compression;
pub use version::Version;

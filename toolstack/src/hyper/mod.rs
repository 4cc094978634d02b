// SPDX-License-Identifier: GPL-3.0-only
//! The way to the hypervisor, in three layers.
//!
//! - [`raw`]: bindings that `build.rs` makes of the patched tree's own headers. Nothing in it is written by hand.
//! - [`safe`]: types, checks and errors. All `unsafe` of this package is there.
//! - `check`: tests that compare what the headers say with the interface this package was written for, so that a
//!   changed header fails a test rather than a hypercall.
//!
//! The domctl and sysctl interface has one version per Xen release: a binary talks to the release it was built for,
//! and says so when it meets another one.

pub mod raw;
pub mod safe;

#[cfg(test)]
mod check;

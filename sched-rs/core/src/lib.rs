// SPDX-License-Identifier: MIT OR Apache-2.0
//! The decisions of the Microslice scheduler: one deterministic state machine, [`Pool::handle`].
//!
//! The crate owns *which* unit runs where and for how long. It refuses everything else: it has no clock, no lock, no
//! allocator, no pointer, no floating point, no dependency and no unsafe code, and it cannot panic. Time, pCPU numbers
//! and what a vCPU was doing come in through [`Event`]; whom to run, for how long, which pCPUs to poke and when to set a
//! timer go out through [`Decision`]. The same events give the same decisions on any machine.
//!
//! Start in [`pool`] (what a pool does with each event, and the formulas) and [`choose`] (which unit a pCPU runs next), then
//! [`policy`] (who is helped, and how) and [`urgent`] (the mechanics of that), [`sizing`] (how many micro cores), [`cap`] (upper
//! bounds), [`groups`] (several pools side by side), [`queue`] (the order), [`class`] (instruction pointers), [`state`] (what is
//! remembered), [`record`] (events to be done again).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod cap;
pub mod choose;
pub mod class;
pub mod groups;
pub mod place;
pub mod policy;
pub mod pool;
pub mod queue;
pub mod record;
pub mod sizing;
pub mod state;
pub mod time;
pub mod urgent;

pub use class::{Class, Range, classify};
pub use groups::Siblings;
pub use policy::{Action, Policy, Source};
pub use pool::{Decision, Event, Offer, Pool, Refusal};
pub use record::Record;
pub use state::{Counts, Params};
pub use time::{Span, Time};

// SPDX-License-Identifier: GPL-3.0-only
//! The lab: real patched Xen, dom0 and Linux guests on an emulated machine with counted time.
//!
//! Owns images, the emulated machine, scenarios and the report. Three entry
//! points: [`eval_lab`] makes the table, [`shares`] that of fairness, [`e2e`] fails when the product does not work. Refuses to
//! search for inputs ([`LabInputs`] names them all), to patch or build Xen, and to judge a run whose
//! serial log holds a Xen warning: such a run has no numbers.

pub mod closure;
pub mod cpio;
pub mod debian;
pub mod e2e;
pub mod eval;
pub mod images;
pub mod inputs;
pub mod kaslr;
pub mod kernel;
pub mod measure;
pub mod qemu;
pub mod report;
pub mod run;
pub mod scenario;
pub mod serial;
pub mod shares;
pub mod tiny;

pub use e2e::{E2eArgs, e2e};
pub use eval::{EvalArgs, eval_lab};
pub use inputs::LabInputs;
pub use shares::{SharesArgs, shares};

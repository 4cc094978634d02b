// SPDX-License-Identifier: GPL-3.0-only
//! The lab: real patched Xen, dom0 and Linux guests on an emulated machine with counted time.
//!
//! Owns images, the emulated machine, scenarios, the results schema and the report. Three entry
//! points: [`eval_lab`] makes the table, [`shares`] that of fairness, [`e2e`] fails when the product does not work. Refuses to
//! search for inputs ([`LabInputs`] names them all), to patch or build Xen, and to judge a run whose
//! serial log holds a Xen warning: such a run has no numbers.

pub mod closure;
pub mod cpio;
pub mod e2e;
pub mod eval;
pub mod images;
pub mod inputs;
pub mod kaslr;
pub mod kernel;
pub mod measure;
pub mod qemu;
pub mod report;
pub mod results;
pub mod run;
pub mod scenario;
pub mod serial;
pub mod shares;
pub mod tiny;

pub use e2e::{E2eArgs, e2e};
pub use eval::{EvalArgs, eval_lab};
pub use inputs::LabInputs;
pub use shares::{SharesArgs, shares};

use anyhow::{Context, Result};
use std::path::Path;

/// Writes a file so that it is there complete or not at all.
pub fn write_atomically(path: &Path, data: &[u8]) -> Result<()> {
    let folder = path.parent().with_context(|| format!("write {}: no folder", path.display()))?;
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let mut file =
        tempfile::NamedTempFile::new_in(folder).with_context(|| format!("write in {}", folder.display()))?;
    std::io::Write::write_all(&mut file, data).with_context(|| format!("write {}", path.display()))?;
    file.persist(path).with_context(|| format!("rename to {}", path.display()))?;
    Ok(())
}

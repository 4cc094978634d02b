// SPDX-License-Identifier: GPL-3.0-only
//! The hypervisor's Rust library: sched-rs/core and sched-rs/ffi as one relocatable object, `microslice_rs.o`.
//!
//! It is compiled by plain rustc, because cargo has no target to offer on a machine that may fetch nothing. Both
//! crates depend on nothing but `core`. The object is only kept if it passes the link check.

use crate::cache::{Cache, Key};
use crate::link_check::{self, Figures};
use crate::run;
use crate::toolchain::{FLAGS, Toolchain};
use crate::ui::Step;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The object's name.
pub const OBJECT: &str = "microslice_rs.o";

/// A checked object.
#[derive(Debug)]
pub struct Object {
    /// Where it is.
    pub path: PathBuf,
    /// What the link check saw.
    pub figures: Figures,
}

/// Builds the object from `root`/sched-rs, or takes it from the cache.
///
/// # Errors
/// If it does not compile or does not pass the link check.
pub fn build(cache: &Cache, root: &Path) -> Result<Object> {
    let toolchain = Toolchain::find(cache)?;
    let (core, ffi) = (root.join("sched-rs/core"), root.join("sched-rs/ffi"));
    let key = toolchain.key().field("object 2").tree(&core.join("src"))?.tree(&ffi.join("src"))?;
    let dir = cache.entry("rustlib", &key, |dir| {
        let libcore = toolchain.core(cache)?;
        compile(cache, &toolchain, &libcore, &core, &ffi, dir)
    })?;
    let path = dir.join(OBJECT);
    let figures = link_check::check_file(&path)?;
    Ok(Object { path, figures })
}

fn compile(
    cache: &Cache,
    toolchain: &Toolchain,
    libcore: &Path,
    core: &Path,
    ffi: &Path,
    dir: &Path,
) -> Result<()> {
    let log = cache.log("rustlib");
    let mut step = Step::new("rustlib: compiling sched-rs/core and sched-rs/ffi");
    let work = tempfile::tempdir_in(dir)?;
    let rustc = |name: &str, krate: &Path, kind: &str| {
        let mut cmd = toolchain.rustc();
        cmd.args(FLAGS)
            .arg("-L")
            .arg(libcore)
            .arg(format!("--crate-name={name}"))
            .arg(format!("--crate-type={kind}"));
        // Panic messages and debug paths must not depend on where the project lies.
        let parent = krate.parent().unwrap_or(krate);
        cmd.arg(format!("--remap-path-prefix={}=sched-rs", parent.display()));
        cmd.arg(krate.join("src/lib.rs")).current_dir(work.path());
        cmd
    };
    run::logged_in(rustc("microslice_core", core, "rlib").arg("-Cembed-bitcode=yes"), &log, &mut step)?;
    let mut last = rustc("microslice_ffi", ffi, "staticlib");
    last.arg("--extern=microslice_core=libmicroslice_core.rlib").args(["-Clto=fat", "-Ccodegen-units=1"]);
    // rustc merges the crates into one object only if it is also asked to link.
    let archive = format!("--emit=obj={OBJECT},link=unused.a");
    run::logged_in(last.arg(archive), &log, &mut step)?;
    let made = work.path().join(OBJECT);
    link_check::check_file(&made)?;
    fs::rename(&made, dir.join(OBJECT)).with_context(|| format!("keeping {}", made.display()))?;
    step.done();
    Ok(())
}

/// What the object is made from, for the key of a hypervisor.
///
/// # Errors
/// If the object cannot be read.
pub fn add_to(key: Key, object: &Object) -> Result<Key> {
    let bytes = fs::read(&object.path).with_context(|| format!("reading {}", object.path.display()))?;
    Ok(key.field(bytes))
}

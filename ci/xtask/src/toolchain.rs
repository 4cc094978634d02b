// SPDX-License-Identifier: GPL-3.0-only
//! The compiler for the hypervisor's Rust library, and `core` built with the hypervisor's flags.
//!
//! The compiler is Debian's rustc-web, unpacked into the cache; nothing is installed. The host's toolchain is not used:
//! it has no source of `core` unless rustup may fetch it, the prebuilt `core` of a target reaches outside symbols through the
//! GOT, which Xen refuses, and one compiler for everybody means one object for everybody.

use crate::apt::Apt;
use crate::cache::{Cache, Key};
use crate::run;
use crate::ui::Step;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Flags for everything that is linked into Xen: no GOT, no jump tables, no unwinding, no SSE (the target's own
/// property), short symbol names.
pub const FLAGS: &[&str] = &[
    "--edition=2024",
    "--target=x86_64-unknown-none",
    "-O",
    "-Cpanic=abort",
    "-Crelocation-model=pic",
    "-Cjump-tables=no",
    "-Cforce-unwind-tables=no",
    "-Csymbol-mangling-version=hashed",
    "-Zunstable-options",
    "-Zdirect-access-external-data=yes",
    "-Zdefault-visibility=hidden",
    "-Zplt=yes",
];

/// The package with the compiler's source, and `core`'s.
const COMPILER_SOURCE: &str = "rust-web-src";

/// An empty crate in the place of compiler_builtins: memcpy and its kin are Xen's.
const BUILTINS: &str = "#![feature(no_core, compiler_builtins)]\n#![no_core]\n#![compiler_builtins]\n\
    #![allow(internal_features)]\n";

/// A compiler with the source of its `core`.
#[derive(Debug, Clone)]
pub struct Toolchain {
    rustc: PathBuf,
    libraries: PathBuf,
    source: PathBuf,
    /// What `rustc -vV` says.
    pub version: String,
}

impl Toolchain {
    /// Takes it from the cache, or from Debian.
    ///
    /// # Errors
    /// If Debian's packages cannot be had or do not run.
    pub fn find(cache: &Cache) -> Result<Self> {
        let dir = cache.entry("rustc", &Key::new("rustc-web 2"), |dir| {
            let apt = Apt::open(cache)?;
            let log = cache.log("rustc");
            let names = apt.closure(&["rustc-web", COMPILER_SOURCE], is_part)?;
            let (source, programs): (Vec<_>, Vec<_>) = names.into_iter().partition(|n| n == COMPILER_SOURCE);
            let mut files = apt.unpack(&programs, &[], dir, &log)?;
            // core's source takes in files of the other two.
            let parts = ["core", "portable-simd", "stdarch"].map(|p| format!("./usr/src/*/library/{p}/*"));
            files.extend(apt.unpack(&source, &parts.each_ref().map(String::as_str), dir, &log)?);
            Ok(fs::write(dir.join("packages"), files.join("\n") + "\n")?)
        })?;
        let sources =
            fs::read_dir(dir.join("usr/src")).context("looking for the source of Debian's rustc-web")?;
        let source = sources.flatten().map(|d| core_source(&d.path())).find(|s| s.is_file());
        let libraries = dir.join("usr/lib/x86_64-linux-gnu");
        let source = source.with_context(|| format!("there is no source of core below {}", dir.display()))?;
        Self::probe(dir.join("usr/bin/rustc"), libraries, source).context(
            "running Debian's rustc-web from the cache; if a library is missing, `ci/setup` installs it",
        )
    }

    fn probe(rustc: PathBuf, libraries: PathBuf, source: PathBuf) -> Result<Self> {
        let mut found = Self { rustc, libraries, source, version: String::new() };
        found.version = run::output(found.rustc().arg("-vV"))?;
        Ok(found)
    }

    /// The compiler, ready to take arguments; unstable flags are allowed.
    pub fn rustc(&self) -> Command {
        let mut cmd = Command::new(&self.rustc);
        cmd.env("RUSTC_BOOTSTRAP", "1").env("LD_LIBRARY_PATH", &self.libraries);
        cmd
    }

    /// What results of this toolchain depend on.
    pub fn key(&self) -> Key {
        FLAGS.iter().fold(Key::new("core 2").field(&self.version).field(BUILTINS), Key::field)
    }

    /// The directory with `libcore.rlib` and `libcompiler_builtins.rlib`, built if needed.
    ///
    /// # Errors
    /// If the compiler fails.
    pub fn core(&self, cache: &Cache) -> Result<PathBuf> {
        cache.entry("core", &self.key(), |dir| {
            let log = cache.log("core");
            let mut step = Step::new("rustlib: building core for the hypervisor");
            let library = |name: &str, file: &Path| {
                let mut cmd = self.rustc();
                cmd.args(FLAGS).args([
                    "--crate-type=rlib",
                    "--cap-lints=allow",
                    "-Zforce-unstable-if-unmarked",
                ]);
                cmd.arg(format!("--crate-name={name}")).arg(file).current_dir(dir);
                cmd
            };
            // Float formatting would bring in what the hypervisor must not have.
            run::logged_in(library("core", &self.source).arg("--cfg=no_fp_fmt_parse"), &log, &mut step)?;
            fs::write(dir.join("builtins.rs"), BUILTINS)?;
            let mut builtins = library("compiler_builtins", Path::new("builtins.rs"));
            run::logged_in(builtins.arg("--extern=core=libcore.rlib"), &log, &mut step)?;
            step.done();
            if !dir.join("libcore.rlib").is_file() {
                bail!("building core: the compiler made no libcore.rlib in {}", dir.display());
            }
            Ok(())
        })
    }
}

/// The compiler's own libraries; not the standard library of the host, which nothing here uses.
fn is_part(package: &str) -> bool {
    package.starts_with("libllvm")
        || package.starts_with("libstd-rust-web-") && package != "libstd-rust-web-dev"
}

fn core_source(tree: &Path) -> PathBuf {
    tree.join("library/core/src/lib.rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_compilers_own_libraries_are_taken() {
        assert!(is_part("libllvm22") && is_part("libstd-rust-web-1.96"));
        assert!(!is_part("libstd-rust-web-dev") && !is_part("libc6"));
    }
}

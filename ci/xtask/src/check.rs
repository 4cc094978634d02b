// SPDX-License-Identifier: GPL-3.0-only
//! The quick check before a commit: licence lines, shell syntax, format, lints as errors, unit tests.

use crate::toolstack;
use crate::ui;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use xshell::{Shell, cmd};

/// Shell scripts, whose names do not say so.
const SCRIPTS: [&str; 5] = ["ci/setup", "ci/demo", "ci/test", ".ci/run", "tests/e2e/mutants"];

/// Runs all of it; the toolstack is included if `tools`, a built tree of Xen's tools, is given.
///
/// # Errors
/// The first check that fails.
pub fn run(root: &Path, tools: Option<&Path>) -> Result<()> {
    let sh = Shell::new()?;
    // A check writes nothing into the project.
    let _snapshots = sh.push_env("INSTA_UPDATE", "no");
    sh.change_dir(root);
    ui::say("check: licence lines and scripts");
    licences(&sh, root)?;
    scripts(&sh)?;
    ui::say("check: format");
    cmd!(sh, "cargo fmt --all --check").quiet().run()?;
    let nextest = cmd!(sh, "cargo nextest --version").quiet().ignore_stdout().ignore_stderr().run().is_ok();
    let rest = ["--workspace", "--exclude", "microslice"];
    checks(&sh, &rest, &[], nextest, "workspace")?;
    match tools {
        Some(tree) => {
            let _env: Vec<_> = toolstack::environment(tree)?
                .into_iter()
                .map(|(name, value)| sh.push_env(name, value))
                .collect();
            // In the profile of the package, for which nothing is left to compile then.
            checks(&sh, &["--package", "microslice"], &["--release"], nextest, "toolstack")
        }
        None => {
            ui::warn(
                "check: the toolstack is left out, it needs Xen's tools: `cargo xtask xen build` makes them",
            );
            Ok(())
        }
    }
}

fn checks(sh: &Shell, which: &[&str], profile: &[&str], nextest: bool, name: &str) -> Result<()> {
    ui::say(&format!("check: lints of the {name}"));
    cmd!(sh, "cargo clippy --quiet {which...} --all-targets -- -D warnings").quiet().run()?;
    ui::say(&format!("check: unit tests of the {name}"));
    if nextest {
        let quiet = ["--status-level=fail", "--final-status-level=fail", "--no-tests=pass", "--cargo-quiet"];
        cmd!(sh, "cargo nextest run {which...} {profile...} {quiet...}").quiet().run()?;
    } else {
        cmd!(sh, "cargo test --quiet {which...} {profile...} --all-targets").quiet().run()?;
    }
    Ok(())
}

/// Every text file of ours says its licence in its first lines.
fn licences(sh: &Shell, root: &Path) -> Result<()> {
    let list = cmd!(sh, "git ls-files -z").quiet().read()?;
    let wrong: Vec<&str> =
        list.split('\0').filter(|f| needs_licence(f)).filter(|f| !says_licence(&root.join(f))).collect();
    ensure!(wrong.is_empty(), "no SPDX-License-Identifier in the first lines of: {}", wrong.join(", "));
    Ok(())
}

/// Sources and scripts do; texts, data made by programs and files for other programs do not.
fn needs_licence(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    let by_end = [".rs", ".toml", ".sh", ".yaml", ".yml", ".c", ".h"].iter().any(|e| name.ends_with(e));
    let script = SCRIPTS.contains(&file);
    let patch_part = file.starts_with("xen-patches/") && ["BASE", "series"].contains(&name);
    let fixture = file.contains("/fixtures/") || file.contains("/snapshots/");
    (by_end || script || patch_part) && !fixture
}

fn says_licence(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| {
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
        start.lines().take(3).any(|l| l.contains("SPDX-License-Identifier: "))
    })
}

fn scripts(sh: &Shell) -> Result<()> {
    for script in SCRIPTS {
        cmd!(sh, "bash -n {script}").quiet().run().with_context(|| format!("syntax of {script}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_scripts_and_series_need_a_licence_line() {
        for file in
            ["ci/test", "symtab/src/lib.rs", "xen-patches/4.20/BASE", "Cargo.toml", "symtab/data/x.yaml"]
        {
            assert!(needs_licence(file), "{file}");
        }
        for file in ["Cargo.lock", "README.md", "xen-patches/4.20/0001-a.patch", "tests/fixtures/a.yaml"] {
            assert!(!needs_licence(file), "{file}");
        }
    }
}

// SPDX-License-Identifier: GPL-3.0-only
//! Runs other programs. A failure names the command, says where its output is and shows its end.

use crate::ui::Step;
use anyhow::{Context, Result, bail};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Lines of a failed command's output that are shown.
const TAIL: usize = 40;

fn line(cmd: &Command) -> String {
    let words = std::iter::once(cmd.get_program()).chain(cmd.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs `cmd` with its output appended to `log`; `what` is shown while it runs.
///
/// # Errors
/// If the command cannot be started or fails.
pub fn logged(cmd: &mut Command, what: &str, log: &Path) -> Result<()> {
    let mut step = Step::new(what);
    logged_in(cmd, log, &mut step)?;
    step.done();
    Ok(())
}

/// As [`logged`], inside a step that the caller holds.
pub fn logged_in(cmd: &mut Command, log: &Path, step: &mut Step) -> Result<()> {
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    let open = || OpenOptions::new().create(true).append(true).open(log);
    let mut out: File = open().with_context(|| format!("opening the log {}", log.display()))?;
    writeln!(out, "+ {}", line(cmd))?;
    let from = out.metadata()?.len();
    cmd.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let mut child = cmd.spawn().with_context(|| format!("starting `{}`", line(cmd)))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(30));
        step.tick();
    };
    if status.success() {
        return Ok(());
    }
    let bytes = fs::read(log).unwrap_or_default();
    let own = bytes.get(usize::try_from(from)?..).unwrap_or_default();
    bail!(
        "`{}`: {status}; all of its output is in {}, this is its end:\n{}",
        line(cmd),
        log.display(),
        tail(own)
    )
}

fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

/// Runs `cmd` quietly and returns its stdout.
///
/// # Errors
/// If the command cannot be started, fails (its stderr is part of the error) or prints no UTF-8.
pub fn output(cmd: &mut Command) -> Result<String> {
    let out = cmd.stdin(Stdio::null()).output().with_context(|| format!("starting `{}`", line(cmd)))?;
    if !out.status.success() {
        bail!("`{}`: {}\n{}", line(cmd), out.status, tail(&out.stderr));
    }
    String::from_utf8(out.stdout).with_context(|| format!("reading the output of `{}`", line(cmd)))
}

/// Runs `cmd` with the caller's stdout and stderr.
///
/// # Errors
/// If the command cannot be started or fails.
pub fn shown(cmd: &mut Command) -> Result<()> {
    let status = cmd.status().with_context(|| format!("starting `{}`", line(cmd)))?;
    if !status.success() {
        bail!("`{}`: {status}", line(cmd));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_shows_the_end_of_its_output_only() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("sub/log");
        let mut fine = Command::new("sh");
        logged(fine.args(["-c", "echo of an earlier command"]), "fine", &log).unwrap();
        let mut bad = Command::new("sh");
        let error =
            logged(bad.args(["-c", "echo the cause >&2; exit 3"]), "bad", &log).unwrap_err().to_string();
        assert!(error.contains("sh -c"), "{error}");
        assert!(error.contains("the cause") && !error.contains("of an earlier command\n"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = output(&mut Command::new("no-such-program-here")).unwrap_err().to_string();
        assert!(error.contains("no-such-program-here"), "{error}");
    }
}

// SPDX-License-Identifier: GPL-3.0-only
//! `microslice completions` and `microslice man`: made from the command line's own definition.

use crate::cli::Cli;
use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate};
use std::path::Path;

/// The completions of a shell.
pub fn completions(shell: Shell) -> Result<String> {
    let mut text = Vec::new();
    generate(shell, &mut Cli::command(), "microslice", &mut text);
    String::from_utf8(text).context("write completions")
}

/// A man page for the command and for each of its subcommands.
pub fn man(dir: &Path) -> Result<String> {
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    page(&command, dir).with_context(|| format!("write man pages to {}", dir.display()))?;
    Ok(String::new())
}

fn page(command: &Command, dir: &Path) -> std::io::Result<()> {
    let manual = clap_mangen::Man::new(command.clone()).section("8").manual("Microslice");
    // No date: equal sources make equal pages.
    manual.date("").generate_to(dir)?;
    command.get_subcommands().filter(|sub| !sub.is_hide_set()).try_for_each(|sub| page(sub, dir))
}

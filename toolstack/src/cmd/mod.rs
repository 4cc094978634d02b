// SPDX-License-Identifier: GPL-3.0-only
//! The commands. Each returns all it has to print; only those that go on until they are told to end print by themselves.

mod doctor;
pub mod domain;
mod generate;
mod policy;
pub mod pool;
mod stats;
mod symbols;
mod top;
mod trace;

use crate::cli::{Cli, Command};

/// Runs the command line's command: what it prints, and whether all is well.
pub fn run(cli: &Cli) -> anyhow::Result<(String, bool)> {
    let text = match &cli.command {
        Command::Doctor => return doctor::run(cli.json),
        Command::Pool(command) => pool::run(command, cli.json),
        Command::Symbols(command) => symbols::run(command, cli.json),
        Command::Domain(command) => domain::run(command, cli.json),
        Command::Policy(command) => policy::run(command, cli.json),
        Command::Trace(command) => trace::run(command, cli.json),
        Command::Completions { shell } => generate::completions(*shell),
        Command::Man { dir } => generate::man(dir),
        Command::Daemon(args) => crate::daemon::run(args),
        Command::Top(args) => top::run(args, cli.json),
        Command::Stats { domain } => stats::run(domain.as_deref(), cli.json),
    };
    Ok((text?, true))
}

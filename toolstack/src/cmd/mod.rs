// SPDX-License-Identifier: GPL-3.0-only
//! The commands. Each returns all it has to print; none prints.

pub mod domain;
mod policy;
pub mod pool;
mod stats;
mod symbols;
mod trace;

use crate::cli::{Cli, Command};

/// Runs the command line's command.
pub fn run(cli: &Cli) -> anyhow::Result<String> {
    match &cli.command {
        Command::Pool(command) => pool::run(command, cli.json),
        Command::Symbols(command) => symbols::run(command, cli.json),
        Command::Domain(command) => domain::run(command, cli.json),
        Command::Policy(command) => policy::run(command, cli.json),
        Command::Trace(command) => trace::run(command, cli.json),
        Command::Daemon(args) => crate::daemon::run(args),
        Command::Stats { domain } => stats::run(domain.as_deref(), cli.json),
    }
}

// SPDX-License-Identifier: GPL-3.0-only
//! `microslice`: control of Xen's microslice scheduler, run in dom0.
//!
//! Owns: the command line, range files, the way to the hypervisor ([`hyper`]). Refuses: half-applied commands; input is
//! read and checked before the hypervisor is opened, and each command changes state by one hypercall.
//!
//! Arguments are parsed ([`cli`]), a command ([`cmd`]) computes its whole output, and only then anything is printed.
//! Exit codes: 0 done, 1 the operation failed, 2 the command line is wrong.

mod cli;
mod cmd;
mod daemon;
mod hyper;
mod kernels;
mod libxl;
mod lock;
mod out;
mod policy;
mod rangefile;
mod slide;
mod units;

use clap::Parser;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match cmd::run(&cli) {
        Ok((output, well)) => match print(&output) {
            ExitCode::SUCCESS if !well => ExitCode::FAILURE,
            code => code,
        },
        Err(error) => {
            // With stderr gone there is nobody left to tell; the exit code still says it.
            let _ = writeln!(io::stderr(), "microslice: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(output: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(output.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // `microslice stats | head`: the reader has what it wanted.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(io::stderr(), "microslice: write to standard output: {e}");
            ExitCode::FAILURE
        }
    }
}

// SPDX-License-Identifier: GPL-3.0-only
//! `cargo xtask eval sim` by itself: the demo's first table does not wait for what the other commands need.

use anyhow::Context;
use clap::Parser;
use microslice_eval::{Eval, eval};
use std::path::Path;

/// Run scenarios on the simulated machine; results in target/eval
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    eval: Eval,
}

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("finding the project")?;
    eval(&root.join("tests/scenarios"), &root.join("target/eval"), &Cli::parse().eval)
}

// SPDX-License-Identifier: GPL-3.0-only
//! `cargo xtask`: the developers' commands. Everything fetched or built outside of cargo lives in the user's cache.

mod apt;
mod bench;
mod cache;
mod check;
mod grub;
mod kernel;
mod lab;
mod link_check;
mod package;
mod patches;
mod run;
mod rustlib;
mod series;
mod sizes;
mod source;
mod stack;
mod toolchain;
mod toolstack;
mod xen;

use anyhow::{Context, Result, bail};
use cache::Cache;
use clap::{Args, Parser, Subcommand};
use microslice_eval::ui;
use serde_json::json;
use sizes::Size;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use xen::{Inputs, Variant};

/// Builds, checks and measures Microslice.
///
/// What is fetched (Xen's source, a compiler, a kernel) comes from Debian by this machine's apt and is kept, like
/// everything built from it, in the user's cache ($XDG_CACHE_HOME/microslice), which is safe to delete at any time.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Debug, Subcommand)]
enum Cmd {
    /// The patched hypervisor and its tools
    #[command(subcommand)]
    Xen(XenCmd),
    /// The hypervisor's Rust library: sched-rs/core and sched-rs/ffi as one object
    Rustlib {
        /// Also copy the object into this directory
        #[arg(long, value_name = "DIR")]
        emit: Option<PathBuf>,
    },
    /// Refuse an object that must not be linked into Xen
    LinkCheck {
        /// The object; without it the library is built and checked
        object: Option<PathBuf>,
        /// Print the figures as JSON
        #[arg(long)]
        json: bool,
    },
    /// The patches for Xen
    #[command(subcommand)]
    Patches(PatchesCmd),
    /// Format, lints and unit tests
    Check,
    /// The `microslice` command for dom0
    #[command(subcommand)]
    Toolstack(ToolstackCmd),
    /// A Debian package of the toolstack, in target/package
    Package {
        #[command(flatten)]
        which: Which,
    },
    /// Measure, and write results.json and report.html to target/eval/NAME
    #[command(subcommand)]
    Eval(EvalCmd),
    /// Count instructions
    #[command(subcommand)]
    Bench(BenchCmd),
    /// The product on real Xen, as a test
    E2e(lab::E2e),
    /// Build all that the lab needs and print it as assignments for a shell
    LabInputs,
    /// Fetch Debian's kernel for dom0 and guests into the cache and say where it is
    Kernel,
    /// Install packages from backports on this machine by a private apt configuration (used by ci/setup; needs root)
    #[command(hide = true)]
    InstallBackports {
        #[arg(required = true)]
        packages: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
enum XenCmd {
    /// Build both; what is in the cache already is not built again
    Build(XenBuild),
}

#[derive(Debug, Args)]
struct Which {
    /// Version of Xen: a directory of xen-patches
    #[arg(long, default_value = "4.20", value_name = "VERSION")]
    xen: String,
    /// An unpatched source tree to use in the place of Debian's source; it is only read
    #[arg(long, value_name = "DIR")]
    src: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct XenBuild {
    #[command(flatten)]
    which: Which,
    /// Build the hypervisor with the option SCHED_MICROSLICE off
    #[arg(long)]
    without: bool,
    /// Add the patches that only the emulated machine needs
    #[arg(long)]
    lab: bool,
    /// Build the hypervisor only
    #[arg(long)]
    no_tools: bool,
    /// Print the paths as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum PatchesCmd {
    /// The series applies with zero fuzz and regenerating it changes nothing
    Check {
        #[command(flatten)]
        which: Which,
        /// Also build the hypervisor, with and without the option, and the tools after each patch (takes minutes)
        #[arg(long)]
        build: bool,
        /// Begin no further build when so many minutes have gone since the start; the next run takes up there
        #[arg(long, value_name = "MINUTES", requires = "build")]
        until: Option<u64>,
    },
    /// Write the series anew from git
    Refresh {
        #[command(flatten)]
        which: Which,
        /// A git tree: unpatched Xen as its root commit, then one commit for each patch (default: the series itself)
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum EvalCmd {
    /// Real Xen, dom0 and Linux guests on an emulated machine; taken up where it was interrupted
    Lab(lab::Eval),
    /// Fairness on the same machine: hogs of VMs with weights under credit, credit2 and microslice; to target/eval/shares
    Shares(lab::Shares),
    /// Simulated machine, guests and stock schedulers under the very core that runs in Xen
    Sim(microslice_eval::Eval),
}

#[derive(Debug, Subcommand)]
enum BenchCmd {
    /// schedule, wake and yield of credit, credit2 and microslice in a process; also written to target/bench/core.json
    Core(bench::Core),
}

#[derive(Debug, Subcommand)]
enum ToolstackCmd {
    /// Build it against the patched tools
    Build {
        #[command(flatten)]
        which: Which,
    },
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Cmd) -> Result<()> {
    let (cache, root) = (Cache::open()?, project_root()?);
    let inputs = |which: &Which| Inputs::read(&root, &which.xen, which.src.as_deref());
    match command {
        Cmd::Xen(XenCmd::Build(args)) => xen_build(&cache, &root, &args),
        Cmd::Rustlib { emit } => rustlib_build(&cache, &root, emit.as_deref()),
        Cmd::LinkCheck { object, json } => link_check(&cache, &root, object, json),
        Cmd::Patches(PatchesCmd::Check { which, build, until }) => {
            patches::check(&cache, &inputs(&which)?)?;
            if build { patches::build_each(&cache, &root, &inputs(&which)?, until) } else { Ok(()) }
        }
        Cmd::Patches(PatchesCmd::Refresh { which, from }) => {
            patches::refresh(&cache, &inputs(&which)?, from.as_deref())
        }
        Cmd::Check => {
            let tools = Inputs::read(&root, "4.20", None).and_then(|i| xen::find_tools(&cache, &i))?;
            check::run(&root, tools.as_deref())
        }
        Cmd::Toolstack(ToolstackCmd::Build { which }) => {
            let tree = xen::tools(&cache, &inputs(&which)?)?;
            println!("{}", toolstack::build(&root, &tree)?.display());
            Ok(())
        }
        Cmd::Package { which } => {
            let tree = xen::tools(&cache, &inputs(&which)?)?;
            println!("{}", package(&root, &tree, &which.xen)?.display());
            Ok(())
        }
        Cmd::Eval(EvalCmd::Lab(args)) => lab::eval(&cache, &root, &args),
        Cmd::Eval(EvalCmd::Shares(args)) => lab::shares(&cache, &root, &args),
        Cmd::Eval(EvalCmd::Sim(args)) => {
            microslice_eval::eval(&root.join("tests/scenarios"), &root.join("target/eval"), &args)
        }
        Cmd::Bench(BenchCmd::Core(args)) => bench::core(&cache, &root, &args),
        Cmd::E2e(args) => lab::end_to_end(&cache, &root, &args),
        Cmd::LabInputs => {
            print!("{}", lab::environment(&lab::inputs(&cache, &root, "4.20")?));
            Ok(())
        }
        Cmd::Kernel => {
            println!("{}", serde_json::to_string_pretty(&kernel::get(&cache)?)?);
            Ok(())
        }
        Cmd::InstallBackports { packages } => apt::Apt::open(&cache)?.install_backports(&packages),
    }
}

/// The toolstack's package, built against the tools `tree` of Xen `version`.
fn package(root: &Path, tree: &Path, version: &str) -> Result<PathBuf> {
    package::build(root, tree, version, &toolstack::build(root, tree)?, &root.join("target/package"))
}

/// The project: what cargo says, or the directory above that has xen-patches.
fn project_root() -> Result<PathBuf> {
    let here = std::env::current_dir().context("finding the current directory")?;
    let start = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| here.clone(), PathBuf::from);
    match start.ancestors().find(|d| d.join("xen-patches").is_dir()) {
        Some(root) => Ok(root.to_owned()),
        None => bail!("{} is not inside the project", here.display()),
    }
}

fn xen_build(cache: &Cache, root: &Path, args: &XenBuild) -> Result<()> {
    let inputs = Inputs::read(root, &args.which.xen, args.which.src.as_deref())?;
    let variant = Variant { microslice: !args.without, lab: args.lab };
    let (hypervisor, tools) = if args.no_tools {
        (xen::hypervisor(cache, root, &inputs, variant)?, None)
    } else {
        let (hypervisor, tools) = xen::both(cache, root, &inputs, variant)?;
        (hypervisor, Some(tools))
    };
    if args.json {
        let all = json!({ "hypervisor": hypervisor, "tools": tools, "xen": inputs.series.base.version() });
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    println!("hypervisor  {}", hypervisor.xen.display());
    println!("compressed  {}", hypervisor.xen_gz.display());
    println!("symbols     {}", hypervisor.syms.display());
    println!("config      {}", hypervisor.config.display());
    if let Some(tools) = tools {
        println!("tools       {}", tools.display());
    }
    Ok(())
}

fn rustlib_build(cache: &Cache, root: &Path, emit: Option<&Path>) -> Result<()> {
    let object = rustlib::build(cache, root)?;
    ui::say(&format!("link check: {}", object.figures));
    let Some(dir) = emit else {
        println!("{}", object.path.display());
        return Ok(());
    };
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let to = dir.join(rustlib::OBJECT);
    std::fs::copy(&object.path, &to).with_context(|| format!("writing {}", to.display()))?;
    println!("{}", to.display());
    Ok(())
}

fn link_check(cache: &Cache, root: &Path, object: Option<PathBuf>, json: bool) -> Result<()> {
    let (figures, sources) = match object {
        Some(path) => (link_check::check_file(&path)?, Vec::new()),
        None => {
            let size = |name| Ok((name, Size::of(&root.join("sched-rs").join(name))?));
            (
                rustlib::build(cache, root)?.figures,
                ["core", "ffi"].map(size).into_iter().collect::<Result<_>>()?,
            )
        }
    };
    if json {
        let sources: BTreeMap<_, _> = sources.into_iter().collect();
        println!("{}", serde_json::to_string_pretty(&json!({ "object": figures, "source": sources }))?);
        return Ok(());
    }
    println!("link check passed: {figures}");
    for (name, size) in sources {
        println!("{name}: {size}");
    }
    Ok(())
}

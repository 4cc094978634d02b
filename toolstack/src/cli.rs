// SPDX-License-Identifier: GPL-3.0-only
//! The command line: names, types and help. A value that no host could accept is refused here, with exit code 2.

use crate::hyper::safe::types::{Action, Row, Sizing};
use crate::units;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::str::FromStr;

/// Control Xen's microslice scheduler from dom0.
///
/// The scheduler runs vCPUs that were preempted in the middle of a critical service of their guest's kernel (a lock
/// held, an IPI to answer) at once on micro cores, in very short slices. It recognises them by ranges of guest kernel
/// text, which this command extracts from the kernel image and gives to Xen.
#[derive(Debug, Parser)]
#[command(
    name = "microslice",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "\
Examples:
  microslice pool list                          which cpupools run the scheduler, and how
  microslice pool resize 1                      turn one pCPU into a micro core
  microslice symbols push web /boot/vmlinuz     give guest 'web' the ranges of its kernel
  microslice stats                              what was yielded, preempted and accelerated, by cause

DOMAIN is a name or an id. Exit codes: 0 done, 1 the operation failed (nothing has changed), 2 wrong usage."
)]
pub struct Cli {
    /// Print JSON instead of tables; see the package's README for the schema
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The groups of commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List and control cpupools: slices and micro cores
    #[command(subcommand)]
    Pool(Pool),
    /// Extract critical ranges from guest kernels, and give them to Xen
    #[command(subcommand)]
    Symbols(Symbols),
    /// List domains; set weight, cap and policy
    #[command(subcommand)]
    Domain(Domain),
    /// What is wanted of cpupools and domains, as a file
    #[command(subcommand)]
    Policy(Policy),
    /// Record events and decisions, and do them again
    #[command(subcommand)]
    Trace(Trace),
    /// Give domains the ranges of their kernels as they come, and what a policy file says
    #[command(after_help = "\
Stays in the foreground and logs to stderr; started by the systemd unit microslice.service. Domains that come, go, reboot
or are renamed are followed by xenstore's watches. SIGHUP: read the policy file again; one with an error changes nothing.
SIGTERM: end; what is in force stays in force. Its state is in xenstore below /tool/microslice.

Example:
  microslice daemon --policy /etc/microslice/policy.yaml")]
    Daemon(Daemon),
    /// Show what cpupools and domains do, again and again
    #[command(after_help = "\
Rates are differences of the hypervisor's counters between two readings. A screen of 80 columns by 24 lines suffices, a
larger one shows more columns; a dash: not known yet, or nothing to show.

Cpupools: micro cores of all pCPUs (Micro), who decides (Sizing, with the least and the greatest number), the two slices,
micro slices a second (Runs), their part of the cpupool's time (Mic%), their mean length (Mean), the longest one while
another vCPU waited for it since the cpupool was made (Longest), decisions that Xen refused (Reject). Below, each pCPU with
the part of the time in which it was not idle; m: micro core, r: reserved for micro slices.

Domains: ranges in force (R), time on all pCPUs in percent of one (CPU%), the part of it in micro slices (Mic%), their mean
length (Mean); yields a second in an IPI wait and in a lock wait, and those whose vCPU kept its pCPU; accelerations a second
for an IPI wait, a lock wait, an interrupt, a preemption; those refused or made to wait (Refus).

Keys: q, Esc or Ctrl-C ends, s sorts by CPU, accelerations, ID or name, arrows and Page Up/Down scroll, Ctrl-L draws afresh.
--batch prints every column, a block a reading; --json an object a line.

Examples:
  microslice top
  microslice top --batch -d 10 -n 6 >>/var/log/microslice-top.log")]
    Top(Top),
    /// Say what this host lacks, and the command that mends it
    #[command(after_help = "\
Exit code 1 if something is lacking.

Example:
  microslice doctor --json | jq '.[] | select(.ok | not)'")]
    Doctor,
    /// Print the completions of a shell
    #[command(after_help = "\
Example:
  microslice completions bash >/etc/bash_completion.d/microslice")]
    Completions {
        /// Which
        shell: clap_complete::Shell,
    },
    /// Write the man pages
    #[command(after_help = "\
Example:
  microslice man /usr/local/share/man/man8")]
    Man {
        /// Where to; made if it is not there
        dir: PathBuf,
    },
    /// Show the counters of pools and domains, by cause and outcome
    #[command(after_help = "\
Example:
  microslice stats web --json | jq '.domains[0].accel_ipi'

Columns of the second table: accelerations granted for an IPI wait, a lock wait, an interrupt; refused because of
affinity, the domain's limit, or no free micro core; runs and time on micro cores; time on all cores.")]
    Stats {
        /// Only this domain, and its cpupool
        domain: Option<String>,
    },
}

/// `trace`.
#[derive(Debug, Subcommand)]
pub enum Trace {
    /// Record what a cpupool's scheduler is told and decides
    #[command(after_help = "\
Ends after --seconds, on Ctrl-C, or when Xen's buffer is full; the file is complete in each case. A cpupool has one trace at a
time: a second one is refused.

Example:
  microslice trace record --seconds 0.5 web.trace")]
    Record {
        /// Name or id; may be left out if one cpupool is under microslice
        #[arg(long)]
        pool: Option<String>,
        /// Number of the group of pCPUs; may be left out if the cpupool has one
        #[arg(long)]
        group: Option<u32>,
        /// How long
        #[arg(long, default_value = "1", value_parser = units::parse_seconds)]
        seconds: f64,
        /// Records of 48 bytes that Xen keeps until they are fetched, 1 to 262144
        #[arg(long, default_value = "65536", value_parser = clap::value_parser!(u32).range(1..=262_144))]
        room: u32,
        /// Where to
        output: PathBuf,
    },
    /// Do the decisions of a trace again, with this command's scheduler, and find the first that differs
    #[command(after_help = "\
Needs no Xen. Exit code 1 if one differs.

Example:
  microslice trace replay web.trace")]
    Replay {
        /// Trace file
        file: PathBuf,
    },
    /// Write a trace in a form that a viewer of traces opens
    #[command(after_help = "\
Needs no Xen. Open the file at ui.perfetto.dev, which keeps it on your machine, or in chrome://tracing. Tracks: each pCPU with
the vCPU that ran there, its yields, and why it left; accelerations by cause; settings and the number of micro cores.

Example:
  microslice trace export web.trace -o web.json")]
    Export {
        /// Trace file
        file: PathBuf,
        /// The form
        #[arg(long, value_enum, default_value = "chrome")]
        format: Format,
        /// Symbols of a domain's kernel, or of each that they fit; may be given several times
        #[arg(long, value_name = "[DOMAIN=]FILE")]
        symbols: Vec<String>,
        /// Where to; printed if left out
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Print the events of a trace, with the decisions of this command's scheduler
    #[command(after_help = "\
Columns: number, seconds since the first event, event; decision. d2v1 is vCPU 1 of domain 2. Where a vCPU was in its kernel when it
yielded or was preempted is an address, or with --symbols, a symbol and an offset. FILE is what `symbols import` takes: a kernel
image, a System.map or a copy of the guest's /proc/kallsyms; it is refused if no domain of the trace runs that kernel.

Examples:
  microslice trace show --limit 100 web.trace
  microslice trace show --symbols /boot/vmlinuz-6.1.0-56-amd64 web.trace")]
    Show {
        /// Trace file
        file: PathBuf,
        /// Symbols of a domain's kernel, or of each that they fit; may be given several times
        #[arg(long, value_name = "[DOMAIN=]FILE")]
        symbols: Vec<String>,
        /// Only the first so many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
}

/// What `trace export` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Chrome's trace event format, JSON
    Chrome,
}

/// `pool`.
#[derive(Debug, Subcommand)]
pub enum Pool {
    /// List cpupools
    List {
        /// List the pCPUs, and which of them are micro cores
        #[arg(short, long)]
        cpus: bool,
    },
    /// Show one cpupool: pCPUs, slices, micro cores, counters
    Show {
        /// Name or id
        name: String,
    },
    /// Set the number of micro cores
    #[command(after_help = "\
Micro cores are the highest-numbered pCPUs of the cpupool; at least one pCPU stays normal. Takes effect at once, and
vCPUs that run on a pCPU whose kind changes go on. The number stays: `pool auto` ends.

Examples:
  microslice pool resize --pool Pool-0 2
  microslice pool resize +1")]
    Resize {
        /// Name or id; may be left out if one cpupool is under microslice
        #[arg(long)]
        pool: Option<String>,
        /// Micro cores: a number, or +N or -N for more or fewer than now
        #[arg(allow_negative_numbers = true)]
        micro_cores: MicroCores,
    },
    /// Let the scheduler decide how many micro cores there are
    #[command(after_help = "\
Modes: static (the number of `pool resize`), paper (Algorithm 1 of the EuroSys'18 paper: every second it measures with
0, 1, ... micro cores), adaptive (follows demand, in steps of 50 ms, and never takes a core away to measure).

Example:
  microslice pool auto --mode adaptive --min 0 --max 2")]
    Auto(AutoArgs),
    /// Whether micro cores do nothing but micro slices
    #[command(after_help = "\
Off, the default: while nothing is urgent they do normal work, which gives way at once. On: they wait, as in the paper.

Example:
  microslice pool reserve on")]
    Reserve {
        /// Name or id; may be left out if one cpupool is under microslice
        #[arg(long)]
        pool: Option<String>,
        /// on or off
        state: OnOff,
    },
    /// Set the time slices of normal and micro cores, and the length of a grace
    #[command(after_help = "\
A time is a number and us, ms or s. Normal: 1ms to 1s. Micro: 50us to the normal slice. Grace: 10us to the normal slice.
All change together or not at all.

Example:
  microslice pool slice --normal 30ms --micro 100us")]
    Slice(SliceArgs),
}

/// `top`.
#[derive(Debug, Args)]
pub struct Top {
    /// Print instead of drawing
    #[arg(short, long)]
    pub batch: bool,
    /// Time between two readings, 0.1 to 86400 s
    #[arg(short, long, value_name = "SECONDS", default_value = "3", value_parser = units::parse_delay)]
    pub delay: f64,
    /// End after so many readings, besides the first
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub iterations: Option<u32>,
}

/// `daemon`.
#[derive(Debug, Args)]
pub struct Daemon {
    /// Policy file, YAML [default: /etc/microslice/policy.yaml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
}

/// `policy`.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Say what is wrong with a policy file; needs no Xen
    #[command(after_help = "\
Silent if nothing is wrong. Errors are FILE:LINE:COLUMN and what was expected there. Kernel files and catalogues that the
file names are not opened.

Example:
  microslice policy check /etc/microslice/policy.yaml")]
    Check {
        /// Policy file, YAML
        file: PathBuf,
    },
    /// Make cpupools and domains what a policy file says
    #[command(after_help = "\
Prints what it changes; nothing if all is as wanted. All or nothing: if Xen refuses a change, those before it are undone.
Domains that have not booted get their ranges from `microslice daemon`, or from `policy apply` later.

Example:
  microslice policy apply --dry-run /etc/microslice/policy.yaml")]
    Apply {
        /// Policy file, YAML
        file: PathBuf,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Write what is in force as a policy file
    #[command(after_help = "\
Ranges are not in it: `kernel` is left out, which means the kernel that libxl started the domain with.

Example:
  microslice policy dump /etc/microslice/policy.yaml")]
    Dump {
        /// Where to; printed if left out
        file: Option<PathBuf>,
    },
}

/// A number of micro cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MicroCores {
    /// So many.
    Be(u32),
    /// So many more than now; fewer if negative.
    Change(i32),
}

impl FromStr for MicroCores {
    type Err = String;

    fn from_str(text: &str) -> Result<MicroCores, String> {
        let wrong =
            |_| format!("'{text}' is not a number of micro cores: expected N, +N or -N, as in 2, +1, -1");
        match text.strip_prefix(['+', '-']) {
            Some(digits) if digits.starts_with(|c: char| c.is_ascii_digit()) => {
                text.parse().map(MicroCores::Change).map_err(wrong)
            }
            _ => text.parse().map(MicroCores::Be).map_err(wrong),
        }
    }
}

/// `pool slice`.
#[derive(Debug, Args)]
pub struct SliceArgs {
    /// Name or id; may be left out if one cpupool is under microslice
    #[arg(long)]
    pub pool: Option<String>,
    /// Slice on normal cores
    #[arg(long, value_name = "TIME", value_parser = units::parse_us,
        required_unless_present_any = ["micro", "grace"])]
    pub normal: Option<u32>,
    /// Slice on micro cores
    #[arg(long, value_name = "TIME", value_parser = units::parse_us)]
    pub micro: Option<u32>,
    /// How long a vCPU inside a critical service keeps its pCPU, under the action grace
    #[arg(long, value_name = "TIME", value_parser = units::parse_us)]
    pub grace: Option<u32>,
}

/// `pool auto`.
#[derive(Debug, Args)]
pub struct AutoArgs {
    /// Name or id; may be left out if one cpupool is under microslice
    #[arg(long)]
    pub pool: Option<String>,
    /// Who decides
    #[arg(long, default_value = "adaptive")]
    pub mode: Sizing,
    /// Least number of micro cores
    #[arg(long, value_name = "N")]
    pub min: Option<u32>,
    /// Greatest number of micro cores
    #[arg(long, value_name = "N")]
    pub max: Option<u32>,
}

/// `pool reserve`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnOff {
    /// Only micro slices
    On,
    /// Normal work too
    Off,
}

/// `domain policy`.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// Name or id
    pub domain: String,
    /// A whole row; actions given beside it go before it
    #[arg(required_unless_present_any = ["ipi_wait", "lock_wait", "event", "preemption"])]
    pub row: Option<Row>,
    /// A vCPU yields while it waits for siblings to answer an IPI
    #[arg(long, value_name = "ACTION")]
    pub ipi_wait: Option<Action>,
    /// A vCPU yields while it spins for a lock
    #[arg(long, value_name = "ACTION")]
    pub lock_wait: Option<Action>,
    /// An interrupt or IPI arrives for a vCPU that is runnable and does not run
    #[arg(long, value_name = "ACTION")]
    pub event: Option<Action>,
    /// A vCPU loses its pCPU inside a critical service
    #[arg(long, value_name = "ACTION")]
    pub preemption: Option<Action>,
}

/// Where to find the catalogue.
#[derive(Debug, Args)]
pub struct CatalogArg {
    /// Catalogue of symbols in YAML; its rows override the built-in ones
    #[arg(long, value_name = "YAML")]
    pub catalog: Option<PathBuf>,
}

/// `symbols`.
#[derive(Debug, Subcommand)]
pub enum Symbols {
    /// Extract the ranges of a kernel and say what was found and what it lacks
    #[command(after_help = "\
FILE is a bzImage (vmlinuz), an ELF vmlinux, a System.map or a copy of the guest's /proc/kallsyms, read as root.
Needs no Xen.

Example:
  microslice symbols import /boot/vmlinuz-6.1.0-56-amd64 -o debian12.yaml")]
    Import {
        /// Kernel image
        file: PathBuf,
        #[command(flatten)]
        catalog: CatalogArg,
        /// Write the ranges to this file: JSON if it ends in .json, else YAML
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Show what a kernel image or a range file has: class by class, range by range, or why an address has its class
    #[command(after_help = "\
Without options: the symbols of each class, those that the kernel lacks, and the part of its text that has a class.
Addresses are those of the file: of a guest with KASLR, less its slide.

Examples:
  microslice symbols show /boot/vmlinuz-6.1.0-56-amd64
  microslice symbols show /boot/vmlinuz-6.1.0-56-amd64 --explain 0xffffffff81a03db0")]
    Show {
        /// Kernel image or range file
        file: PathBuf,
        #[command(flatten)]
        catalog: CatalogArg,
        /// List the ranges one by one
        #[arg(long)]
        ranges: bool,
        /// Say what is at this address, and why it has its class
        #[arg(long, value_name = "ADDRESS", value_parser = units::parse_address, conflicts_with = "ranges")]
        explain: Option<u64>,
    },
    /// Give a domain the ranges of its kernel; replaces all it had
    #[command(after_help = "\
FILE is what `symbols import` takes or what it wrote. The slide is vCPU 0's MSR_LSTAR less the address of entry_SYSCALL_64; its
IDT's page-fault entry must say the same, and the banner in the guest's memory must be FILE's. So the guest must have
booted, and FILE must be of the very kernel it runs: anything else is refused, and so is another slide than the guest's.

Examples:
  microslice symbols push web /boot/vmlinuz-6.1.0-56-amd64
  microslice symbols push 3 debian12.yaml --slide 0x1a000000")]
    Push {
        /// Name or id
        domain: String,
        /// Kernel image or range file
        file: PathBuf,
        #[command(flatten)]
        catalog: CatalogArg,
        /// How far the guest's kernel is from its link-time addresses: auto, none, or bytes
        #[arg(long, default_value = "auto", value_parser = Slide::parse, allow_hyphen_values = true)]
        slide: Slide,
    },
    /// Take a domain's ranges away: nothing of it is critical any more
    Drop {
        /// Name or id
        domain: String,
    },
}

/// `--slide`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slide {
    /// From the guest's MSR_LSTAR.
    Auto,
    /// By so many bytes.
    Bytes(i64),
}

impl Slide {
    fn parse(text: &str) -> Result<Slide, String> {
        match text {
            "auto" => Ok(Slide::Auto),
            "none" => Ok(Slide::Bytes(0)),
            other => units::parse_i64(other).map(Slide::Bytes).map_err(|e| format!("{e}, or auto, or none")),
        }
    }
}

/// `domain`.
#[derive(Debug, Subcommand)]
pub enum Domain {
    /// List domains with weight, cap and ranges
    List,
    /// Show one domain: share, counters, ranges by class
    Show {
        /// Name or id
        domain: String,
        /// List the ranges that are in force
        #[arg(long)]
        ranges: bool,
    },
    /// Set weight, cap and row of actions
    #[command(after_help = "\
All change or none. `domain policy` sets single actions of the row.

Example:
  microslice domain set web --weight 512 --cap 200 --policy borrow")]
    Set {
        /// Name or id
        domain: String,
        /// A domain of weight 512 gets twice the time of one of weight 256 when they compete
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..),
            required_unless_present_any = ["cap", "policy"])]
        weight: Option<u16>,
        /// Most that the domain may use, as a percentage of one pCPU; 0: no limit
        #[arg(long)]
        cap: Option<u16>,
        /// What is done for vCPUs that keep their siblings waiting
        #[arg(long, value_name = "ROW")]
        policy: Option<Row>,
    },
    /// Set what is done for vCPUs that keep their siblings waiting
    #[command(after_help = "\
A domain has one action for each way in which the scheduler learns that siblings wait. `domain show` prints them.

Examples:
  microslice domain policy web borrow
  microslice domain policy web --preemption grace")]
    Policy(PolicyArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn micro_cores_are_a_number_or_a_change() {
        use super::MicroCores::{Be, Change};
        for (text, expected) in [("0", Be(0)), ("12", Be(12)), ("+1", Change(1)), ("-2", Change(-2))] {
            assert_eq!(text.parse(), Ok(expected));
        }
        for text in ["", "+", "-", "+-1", "--1", "1+", "many", "4294967296", "+2147483648", "1.5"] {
            assert!(text.parse::<super::MicroCores>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}

// SPDX-License-Identifier: GPL-3.0-only
//! `microslice trace`: what a cpupool's scheduler was told and what it decided, to be done again anywhere.
//!
//! A trace file is gzip of: "msptrace", version of this format (4 bytes), version of state and records (4), size of the state
//! (8), the state, size of the list of guests (8), that list as JSON, then records of 48 bytes to the end. Numbers are
//! little-endian.

mod chrome;
mod names;

use super::pool::only_pool;
use crate::cli;
use crate::hyper::safe::{Trace, Xen, types};
use crate::lock::lock;
use crate::out::{json, write_whole};
use anyhow::{Context, Result, bail, ensure};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use microslice_core::pool::{Decision, Event, Pool};
use microslice_core::state::{MAX_CPUS, NIL};
use microslice_core::{Class, Record, Span, Time};
use microslice_ffi::replay::Replay;
use names::{Guest, Names};
use serde::Serialize;
use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, IsTerminal, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

const MAGIC: &[u8; 8] = b"msptrace";
const VERSION: u32 = 2;
/// How long to leave Xen's buffer alone.
const PAUSE: Duration = Duration::from_millis(10);
/// Largest state that is read from a file; that of Xen 4.20 has a quarter of a megabyte.
const MAX_STATE: u64 = 16 << 20;
/// Longest list of guests; 512 domains with the longest names take a fifth of it.
const MAX_GUESTS: u64 = 1 << 20;

/// Runs a command of the group.
pub fn run(command: &cli::Trace, as_json: bool) -> Result<String> {
    match command {
        cli::Trace::Record { pool, group, seconds, room, output } => {
            record((pool.as_deref(), *group), *seconds, *room, output, as_json)
        }
        cli::Trace::Replay { file } => replay(file, as_json),
        cli::Trace::Export { file, format, symbols, output } => {
            chrome::export(file, *format, symbols, output.as_deref())?;
            Ok(String::new())
        }
        cli::Trace::Show { file, symbols, limit } => show(file, symbols, *limit, as_json),
    }
}

#[derive(Serialize)]
struct Recorded {
    file: String,
    events: u64,
    seconds: f64,
    /// Xen's buffer was full before the end.
    lost: bool,
}

/// `of`: cpupool and group.
fn record(
    of: (Option<&str>, Option<u32>),
    seconds: f64,
    room: u32,
    output: &Path,
    as_json: bool,
) -> Result<String> {
    let xen = Xen::open()?;
    let pool = match of.0 {
        Some(name) => xen.find_pool(name)?,
        None => only_pool(xen.pools()?)?,
    };
    let group = group_of(&pool, of.1)?;
    // Xen has one trace of a group and gives its records to whoever asks: two readers would each get a part.
    let path = format!("/run/microslice/trace.{}.{group}.lock", pool.id);
    let _lock = lock(Path::new(&path), "microslice trace record")?;
    let guests = serde_json::to_vec(&Guest::of(&xen, &pool)?)?;
    let (events, span, lost) = write_whole(output, |file| {
        drain(xen.trace(&pool, group, room)?, &guests, file, Duration::from_secs_f64(seconds))
    })?;
    if lost {
        eprintln!(
            "microslice: Xen's buffer was full after {span:.3} s, and the trace ends there: give more --room"
        );
    }
    if as_json {
        return json(&Recorded { file: output.display().to_string(), events, seconds: span, lost });
    }
    Ok(format!("{events} events in {span:.3} s: {}\n", output.display()))
}

/// Which group of pCPUs is meant; each is recorded, and replays, on its own.
fn group_of(pool: &types::Pool, asked: Option<u32>) -> Result<u32> {
    let groups = pool.schedule.as_ref().map_or(1, |s| s.nr_groups);
    match asked {
        None if groups > 1 => bail!(
            "trace cpupool '{}': it has {groups} groups of pCPUs, each with a trace of its own: choose one with --group",
            pool.name
        ),
        None => Ok(0),
        Some(n) if n >= groups => {
            bail!("trace cpupool '{}': there is no group {n}: it has {groups}, from 0 on", pool.name)
        }
        Some(n) => Ok(n),
    }
}

/// Until the time is up, Ctrl-C, or a record is lost; number of records, seconds between the first and the last, and whether
/// one was lost.
fn drain(mut trace: Trace<'_>, guests: &[u8], file: &mut File, time: Duration) -> Result<(u64, f64, bool)> {
    let mut out = GzEncoder::new(BufWriter::new(file), Compression::default());
    out.write_all(MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    out.write_all(&trace.abi.to_le_bytes())?;
    out.write_all(&(trace.state.len() as u64).to_le_bytes())?;
    out.write_all(&trace.state)?;
    out.write_all(&(guests.len() as u64).to_le_bytes())?;
    out.write_all(guests)?;
    let (mut events, mut first, mut last, mut lost) = (0, 0, 0, false);
    let progress = std::io::stderr().is_terminal();
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
        loop {
            let over = tokio::select! {
                biased;
                _ = &mut interrupt => true,
                () = tokio::time::sleep(PAUSE) => started.elapsed() >= time,
            };
            loop {
                let batch = trace.read()?;
                for record in &batch.records {
                    out.write_all(&record.to_bytes())?;
                }
                events += batch.records.len() as u64;
                first = if first == 0 { batch.records.first().map_or(0, |r| r.now) } else { first };
                last = batch.records.last().map_or(last, |r| r.now);
                lost |= batch.lost;
                if !batch.more || lost {
                    break;
                }
            }
            if progress {
                eprint!("\r{events} events, {:.1} s ", started.elapsed().as_secs_f64());
            }
            if over || lost {
                return anyhow::Ok(());
            }
        }
    })?;
    if progress {
        eprintln!();
    }
    out.finish()?.flush()?;
    Ok((events, last.saturating_sub(first) as f64 / 1e9, lost))
}

/// The rest of a trace file.
type Records = GzDecoder<BufReader<File>>;

/// A trace file that is being read.
struct Reader {
    from: Records,
    pool: Replay,
    index: u64,
    first: u64,
    /// The number on the host of the pCPU in each slot, or that was in it last.
    numbers: [u16; MAX_CPUS],
    names: Names,
}

/// One event, what was decided then, and what is decided now.
struct Step {
    index: u64,
    /// Since the first event.
    since: Span,
    event: Event,
    now: Decision,
    same: bool,
    record: Record,
    /// What ran on the pCPU that asks for work.
    before: Option<u16>,
}

impl Step {
    fn seconds(&self) -> f64 {
        self.since.0 as f64 / 1e9
    }
}

/// What a trace file begins with: the records that follow, the state, the guests.
fn begin(path: &Path) -> Result<(Records, Vec<u8>, Names)> {
    let name = path.display();
    let file = File::open(path).with_context(|| format!("open {name}"))?;
    let mut from = GzDecoder::new(BufReader::new(file));
    let mut head = [0; 16];
    let read = from.read_exact(&mut head);
    let (magic, rest) = head.split_at(8);
    ensure!(read.is_ok() && magic == MAGIC, "read {name}: not a trace of `microslice trace record`");
    let mut words = rest.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap_or_default()));
    let (version, abi) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
    ensure!(version == VERSION, "read {name}: its format is version {version}, not {VERSION}");
    ensure!(
        microslice_ffi::REPLAYS.contains(&abi),
        "read {name}: recorded under version {abi} of the scheduler's state; this command replays versions {:?}",
        microslice_ffi::REPLAYS
    );
    let mut part = |what: &str, most: u64| {
        let (mut size, mut bytes) = ([0; 8], Vec::new());
        from.read_exact(&mut size).with_context(|| format!("read {name}: the size of {what}"))?;
        let size = u64::from_le_bytes(size);
        ensure!(size <= most, "read {name}: {what} of {size} bytes, more than {most}");
        from.by_ref().take(size).read_to_end(&mut bytes).with_context(|| format!("read {name}: {what}"))?;
        ensure!(bytes.len() as u64 == size, "read {name}: the file ends inside {what}");
        Ok(bytes)
    };
    let state = part("the scheduler's state", MAX_STATE)?;
    let guests = part("the list of guests", MAX_GUESTS)?;
    let guests =
        serde_json::from_slice(&guests).with_context(|| format!("read {name}: the list of guests"))?;
    Ok((from, state, Names::new(guests)))
}

/// The next record; none at the end of the file.
fn next_record(from: &mut Records) -> Result<Option<Record>> {
    let mut bytes = [0; 48];
    let mut got = 0;
    while got < bytes.len() {
        match from.read(bytes.get_mut(got..).unwrap_or_default()) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => bail!("the file ends inside it"),
            Ok(n) => got += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(Some(Record::from_bytes(&bytes)))
}

impl Reader {
    /// Opens a trace, with files of symbols for the names of code.
    fn open(path: &Path, symbols: &[String]) -> Result<Reader> {
        let (from, state, mut names) = begin(path)?;
        symbols.iter().try_for_each(|text| names.symbols(text))?;
        let name = path.display();
        let mut pool = Replay::new(&state).with_context(|| format!("read {name}: the scheduler's state"))?;
        let numbers = pool.look(|pool| pool.shared.cpus.map(|cpu| cpu.number)).unwrap_or([0; MAX_CPUS]);
        // Units that were there before the trace are named by the first record about them.
        let (mut ahead, ..) = begin(path)?;
        while let Ok(Some(record)) = next_record(&mut ahead) {
            names.note(&record, true);
        }
        Ok(Reader { from, pool, index: 0, first: 0, numbers, names })
    }

    fn next(&mut self) -> Result<Option<Step>> {
        let index = self.index;
        let record = next_record(&mut self.from).with_context(|| format!("event {index}"))?;
        let Some(record) = record else { return Ok(None) };
        ensure!(
            record.seq == index as u32,
            "event {index}: its number is {}: events are missing",
            record.seq
        );
        let before = match record.event() {
            Some((_, Event::Schedule { cpu, .. })) => self.running(cpu),
            _ => None,
        };
        self.names.note(&record, false);
        let Some((now, event, decision)) = self.pool.step(&record) else {
            bail!("event {index}: kind {} with these values is no event", record.kind);
        };
        if index == 0 {
            self.first = now.0;
        }
        if let Event::CpuUp { cpu, number } = event
            && let Some(here) = self.numbers.get_mut(usize::from(cpu))
        {
            *here = number;
        }
        self.index += 1;
        Ok(Some(Step {
            index,
            since: now.since(Time(self.first)),
            event,
            now: decision,
            same: record.agrees(&decision),
            record,
            before,
        }))
    }

    /// What runs on a pCPU of the pool.
    fn running(&mut self, slot: u8) -> Option<u16> {
        let look = |pool: &Pool<'_>| pool.shared.cpus.get(usize::from(slot)).map(|cpu| cpu.unit);
        self.pool.look(look).flatten().filter(|unit| *unit != NIL)
    }

    /// The number on the host of a pCPU of the pool.
    fn host(&self, slot: u8) -> u16 {
        self.numbers.get(usize::from(slot)).copied().unwrap_or(u16::MAX)
    }

    fn said(&self, step: &Step) -> String {
        let who = |unit| self.names.who(unit);
        match step.event {
            Event::CpuUp { cpu, .. } => format!("pCPU {} joins", self.host(cpu)),
            Event::CpuDown { cpu } => format!("pCPU {} leaves", self.host(cpu)),
            Event::DomAdd { dom } => format!("domain slot {dom} is taken"),
            Event::DomRemove { dom } => format!("domain slot {dom} is free"),
            Event::DomSet { dom, weight, cap } => {
                format!("domain slot {dom} gets weight {weight}, cap {cap}")
            }
            Event::DomElsewhere { dom, units } => {
                format!("domain slot {dom} has {units} units in other groups")
            }
            Event::Awaited { dom, .. } => format!("units of domain slot {dom} are awaited in another group"),
            Event::DomPolicy { dom, .. } => format!("domain slot {dom} gets a row of actions"),
            Event::UnitAdd { unit, dom, .. } => format!("{} of domain slot {dom} joins", who(unit)),
            Event::UnitRemove { unit } => format!("{} leaves", who(unit)),
            Event::Affinity { unit, .. } => format!("{} gets an affinity", who(unit)),
            Event::Wake { unit, .. } => format!("{} wakes", who(unit)),
            Event::Sleep { unit } => format!("{} sleeps", who(unit)),
            Event::Yield { unit, class, .. } => {
                format!("{} yields{}", who(unit), self.names.place(unit, step.record.rip(), class))
            }
            Event::Kick { unit } => format!("{} gets an event", who(unit)),
            Event::Schedule { cpu, runnable, class, .. } => {
                let cpu = self.host(cpu);
                match step.before.map(|unit| (unit, who(unit))) {
                    None => format!("pCPU {cpu} is free"),
                    Some((_, who)) if !runnable => format!("{who} leaves pCPU {cpu}"),
                    Some((unit, who)) if unit == step.now.run => format!("{who} stays on pCPU {cpu}"),
                    Some((unit, who)) => {
                        let place = self.names.place(unit, step.record.rip(), class);
                        format!("{who} preempted on pCPU {cpu}{place}")
                    }
                }
            }
            Event::Saved { unit } => format!("{} is off its pCPU", who(unit)),
            Event::Timer => "the timer".to_owned(),
            Event::Set { params } => {
                format!("settings: {} us, {} us", params.slice.0 / 1_000, params.micro_slice.0 / 1_000)
            }
        }
    }

    fn decided(&self, step: &Step) -> String {
        let d = &step.now;
        let mut words = Vec::new();
        if let Some(refused) = d.refused() {
            words.push(format!("refused: {refused:?}"));
        }
        if let Event::Schedule { cpu, .. } = step.event {
            let cpu = self.host(cpu);
            words.push(match d.run {
                NIL => format!("pCPU {cpu} idles"),
                unit => format!("{} runs for {} us", self.names.who(unit), d.slice.0 / 1_000),
            });
        }
        if d.kept {
            words.push("keeps its pCPU".to_owned());
        }
        if d.poke != 0 {
            let cpus: Vec<String> = (0..64)
                .filter(|slot| d.poke >> slot & 1 != 0)
                .map(|slot| self.host(slot).to_string())
                .collect();
            words.push(format!("pokes pCPU {}", cpus.join(", ")));
        }
        words.join("; ")
    }
}

#[derive(Serialize)]
struct Replayed {
    events: u64,
    seconds: f64,
    differences: u64,
}

fn replay(file: &Path, as_json: bool) -> Result<String> {
    let mut reader = Reader::open(file, &[])?;
    let mut seconds = 0.0;
    while let Some(step) = reader.next().with_context(|| format!("read {}", file.display()))? {
        if !step.same {
            bail!(
                "replay {}: event {} at {:.6} s ({}): then {}, now {}; the events before it gave the same",
                file.display(),
                step.index,
                step.seconds(),
                reader.said(&step),
                if step.record.run == NIL { "no unit".into() } else { reader.names.who(step.record.run) },
                reader.decided(&step),
            );
        }
        seconds = step.seconds();
    }
    let events = reader.index;
    if as_json {
        return json(&Replayed { events, seconds, differences: 0 });
    }
    Ok(format!("{events} events in {seconds:.3} s: every decision is the same\n"))
}

#[derive(Serialize)]
struct Shown {
    index: u64,
    seconds: f64,
    event: String,
    decision: String,
}

fn show(file: &Path, symbols: &[String], limit: Option<u64>, as_json: bool) -> Result<String> {
    let mut reader = Reader::open(file, symbols)?;
    let (mut text, mut list) = (String::new(), Vec::new());
    while reader.index < limit.unwrap_or(u64::MAX) {
        let Some(step) = reader.next().with_context(|| format!("read {}", file.display()))? else { break };
        let (event, decision) = (reader.said(&step), reader.decided(&step));
        if as_json {
            list.push(Shown { index: step.index, seconds: step.seconds(), event, decision });
        } else {
            text += &format!("{:>8} {:>11.6}  {event}", step.index, step.seconds());
            text += if decision.is_empty() { "" } else { "; " };
            text += &decision;
            text.push('\n');
        }
    }
    if as_json { json(&list) } else { Ok(text) }
}

/// As in range files and `symbols show`. What no range has is Xen's own finding.
fn class_words(class: Class) -> &'static str {
    microslice_symtab::Class::from_number(class as u32).map_or("irqs-off", microslice_symtab::Class::name)
}

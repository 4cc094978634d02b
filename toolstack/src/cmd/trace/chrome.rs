// SPDX-License-Identifier: GPL-3.0-only
//! A trace in Chrome's trace event format, which Perfetto (ui.perfetto.dev) and chrome://tracing open.
//!
//! A track for each pCPU, with a slice for every unit that ran there (begin and end events, so that times on one track never
//! overlap) and an instant for every yield; a track for accelerations by cause; one for what was set and resized, with the
//! number of micro cores as a counter. Times are microseconds since the first event. Events are written as they are read.
//!
//! What runs and why comes from the replayed scheduler; a trace whose decisions this command does not repeat is refused.

use super::{Reader, Step, class_words};
use crate::cli::Format;
use crate::out::write_whole;
use anyhow::{Context, Result, ensure};
use microslice_core::Counts;
use microslice_core::pool::{Event, Offer, Pool};
use microslice_core::state::{MAX_CPUS, NIL, Work};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// The process of the pCPUs' tracks, and the thread of pCPU 0: viewers show these numbers, take 0 for the idle thread, and one that is a
/// process's too for its main thread.
const PCPUS: u32 = 1;
const PCPU_0: u32 = 100;
/// The process of the other tracks, and its threads.
const SCHEDULER: u32 = 2;
const ACCELERATIONS: u32 = 11;
const CONTROL: u32 = 12;

/// Writes a trace to a file, or to standard output.
pub fn export(file: &Path, format: Format, symbols: &[String], output: Option<&Path>) -> Result<()> {
    let Format::Chrome = format;
    let written = match output {
        Some(path) => write_whole(path, |out| all(file, symbols, &mut BufWriter::new(out))),
        None => all(file, symbols, &mut BufWriter::new(io::stdout().lock())),
    };
    match written {
        // `trace export | head`: the reader has what it wanted.
        Err(e) if e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => {
            Ok(())
        }
        written => written,
    }
}

fn all(file: &Path, symbols: &[String], out: &mut impl Write) -> Result<()> {
    let mut reader = Reader::open(file, symbols)?;
    let mut export = Export::begin(&mut reader, out)?;
    while let Some(step) = reader.next().with_context(|| format!("read {}", file.display()))? {
        ensure!(
            step.same,
            "export {}: this command's scheduler decides event {} otherwise; see `microslice trace replay`",
            file.display(),
            step.index
        );
        export.step(&mut reader, &step)?;
    }
    export.end(&reader)
}

/// An event of the format.
#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    ph: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cat: Option<&'static str>,
    ts: f64,
    pid: u32,
    tid: u32,
    /// Of an instant: how far its mark reaches.
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<&'static str>,
    #[serde(skip_serializing_if = "Value::is_null")]
    args: Value,
}

/// How a unit came to its micro slice.
type Cause = &'static str;

/// What a pCPU does.
#[derive(Clone, Copy)]
struct Track {
    unit: u16,
    work: Work,
    /// When its slice is over, ns.
    until: u64,
}

impl Default for Track {
    fn default() -> Track {
        Track { unit: NIL, work: Work::Idle, until: 0 }
    }
}

struct Export<'a, W> {
    out: &'a mut W,
    /// Nanoseconds; never goes back.
    now: u64,
    /// The pool's pCPUs.
    tracks: [Track; MAX_CPUS],
    /// The numbers of counters that have been seen, by domain.
    counts: Vec<Counts>,
    /// Units that are to have a micro slice.
    urgent: HashMap<u16, Cause>,
    /// Units that have offered their pCPU.
    yielded: HashSet<u16>,
    micro: u64,
    /// pCPUs that have a track.
    named: u64,
}

impl<'a, W: Write> Export<'a, W> {
    fn begin(reader: &mut Reader, out: &'a mut W) -> Result<Export<'a, W>> {
        let start = |pool: &Pool<'_>| {
            let counts: Vec<Counts> = pool.doms.iter().map(|dom| dom.counts).collect();
            let runs = pool.shared.cpus.map(|cpu| (cpu.unit, cpu.work));
            (counts, runs, pool.shared.online, pool.shared.micro)
        };
        let (counts, runs, online, micro) =
            reader.pool.look(start).context("the scheduler's state is no pool")?;
        // One event a line; the array's first has no comma before it.
        write!(out, "{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[")?;
        let mut export = Export {
            out,
            now: 0,
            tracks: [Track::default(); MAX_CPUS],
            counts,
            urgent: HashMap::new(),
            yielded: HashSet::new(),
            micro,
            named: 0,
        };
        write!(
            export.out,
            "\n{}",
            json!({"name": "process_name", "ph": "M", "pid": PCPUS, "args": {"name": "pCPUs"}})
        )?;
        export.label("process_name", SCHEDULER, None, "scheduler")?;
        export.label("thread_name", SCHEDULER, Some(ACCELERATIONS), "accelerations")?;
        export.label("thread_name", SCHEDULER, Some(CONTROL), "settings and sizing")?;
        for slot in (0..MAX_CPUS as u8).filter(|slot| online >> slot & 1 != 0) {
            export.track(reader, slot)?;
        }
        export.cores()?;
        for (slot, (unit, work)) in (0u8..).zip(runs).filter(|(_, (unit, _))| *unit != NIL) {
            export.run(reader, slot, unit, work, json!({"began": "before the trace"}))?;
        }
        Ok(export)
    }

    fn step(&mut self, reader: &mut Reader, step: &Step) -> Result<()> {
        self.now = self.now.max(step.since.0);
        match step.event {
            Event::Yield { unit, class, .. } => {
                self.yielded.insert(unit);
                let on = self.tracks.iter().position(|track| track.unit == unit);
                if let Some(slot) = on.and_then(|slot| u8::try_from(slot).ok()) {
                    let mut args = json!({"unit": unit, "keeps its pCPU": step.now.kept});
                    at(reader, unit, step, &mut args);
                    let name = format!("yield in {}", class_words(class));
                    self.instant(&name, "yield", PCPUS, thread(reader, slot), args)?;
                }
                self.outcome(reader, unit)?;
            }
            Event::Kick { unit } => self.outcome(reader, unit)?,
            Event::Schedule { cpu: slot, offer, runnable, class } => {
                let work =
                    reader.pool.look(|pool| pool.shared.cpus.get(usize::from(slot)).map(|cpu| cpu.work));
                let work = work.flatten().unwrap_or_default();
                // A unit that goes on in the same kind of slice has one mark for all of it.
                let track = self.tracks.get(usize::from(slot)).copied().unwrap_or_default();
                let goes_on = step.before == Some(step.now.run) && track.work == work;
                if let Some(before) = step.before.filter(|_| !goes_on) {
                    let left = match (offer, runnable) {
                        (Offer::Offline, _) => "the pCPU leaves",
                        (_, false) => "no longer runnable",
                        _ if step.now.run == before => "goes on",
                        _ if self.yielded.contains(&before) => "yields",
                        _ if track.until <= self.now => "its slice is over",
                        _ => "preempted",
                    };
                    let mut args = json!({"left": left});
                    if let Some(args) = args.as_object_mut().filter(|_| runnable) {
                        args.insert("in".into(), class_words(class).into());
                    }
                    at(reader, before, step, &mut args);
                    self.stop(reader, slot, args)?;
                }
                if let Some(before) = step.before {
                    self.outcome(reader, before)?;
                }
                if let Some(track) = self.tracks.get_mut(usize::from(slot)) {
                    track.until = self.now.saturating_add(step.now.slice.0);
                }
                if step.now.run != NIL && !goes_on {
                    let args = json!({"slice_us": step.now.slice.0 as f64 / 1e3});
                    self.run(reader, slot, step.now.run, work, args)?;
                }
            }
            Event::Wake { .. } | Event::Sleep { .. } | Event::Saved { .. } | Event::Affinity { .. } => {}
            Event::Timer => self.resized(reader)?,
            Event::CpuDown { cpu: slot } => {
                self.stop(reader, slot, json!({"left": "the pCPU leaves"}))?;
                self.said(reader, step)?;
            }
            _ => self.said(reader, step)?,
        }
        Ok(())
    }

    /// What was set, or came and went.
    fn said(&mut self, reader: &mut Reader, step: &Step) -> Result<()> {
        if let Event::CpuUp { cpu, .. } = step.event {
            self.track(reader, cpu)?;
        }
        let refused = step.now.refused().map(|refused| format!("{refused:?}"));
        let args = refused.map_or(Value::Null, |refused| json!({"refused": refused}));
        self.instant(&reader.said(step), "control", SCHEDULER, CONTROL, args)?;
        self.resized(reader)
    }

    /// Microseconds.
    fn ts(&self) -> f64 {
        self.now as f64 / 1e3
    }

    fn running(&self, slot: u8) -> u16 {
        self.tracks.get(usize::from(slot)).map_or(NIL, |track| track.unit)
    }

    /// A unit begins to run.
    fn run(&mut self, reader: &Reader, slot: u8, unit: u16, work: Work, mut args: Value) -> Result<()> {
        let micro = work == Work::Micro;
        let cause = self.urgent.remove(&unit);
        if let Some(args) = args.as_object_mut() {
            args.insert("unit".into(), unit.into());
            if let Some(cause) = cause.filter(|_| micro) {
                args.insert("why".into(), cause.into());
            }
        }
        let name = title(reader, unit, work);
        let cat = Some(if micro { "micro" } else { "normal" });
        let tid = thread(reader, slot);
        self.put(&Entry { name: &name, ph: "B", cat, ts: self.ts(), pid: PCPUS, tid, s: None, args })?;
        if let Some(track) = self.tracks.get_mut(usize::from(slot)) {
            (track.unit, track.work) = (unit, work);
        }
        Ok(())
    }

    /// What ran there does not any more.
    fn stop(&mut self, reader: &Reader, slot: u8, args: Value) -> Result<()> {
        let unit = self.running(slot);
        if unit == NIL {
            return Ok(());
        }
        self.yielded.remove(&unit);
        let work = self.tracks.get(usize::from(slot)).map_or(Work::Idle, |track| track.work);
        // Viewers want the name with which it began.
        let name = title(reader, unit, work);
        let tid = thread(reader, slot);
        self.put(&Entry { name: &name, ph: "E", cat: None, ts: self.ts(), pid: PCPUS, tid, s: None, args })?;
        if let Some(track) = self.tracks.get_mut(usize::from(slot)) {
            track.unit = NIL;
        }
        Ok(())
    }

    /// Accelerations that came of an event about a unit, by the counters of its domain.
    fn outcome(&mut self, reader: &mut Reader, unit: u16) -> Result<()> {
        let look = |pool: &Pool<'_>| {
            let dom = pool.units.get(usize::from(unit))?.dom;
            let mut urgent = Vec::new();
            let mut next = pool.shared.urgent_head;
            while let Some(unit) = pool.units.get(usize::from(next)) {
                urgent.push(next);
                next = unit.urgent_next;
            }
            Some((usize::from(dom), pool.doms.get(usize::from(dom))?.counts, urgent))
        };
        let Some((dom, now, urgent)) = reader.pool.look(look).flatten() else { return Ok(()) };
        let Some(seen) = self.counts.get_mut(dom) else { return Ok(()) };
        let then = std::mem::replace(seen, now);
        let causes: [(Cause, u64); 5] = [
            ("IPI wait", now.accel_ipi - then.accel_ipi),
            ("lock wait", now.accel_lock - then.accel_lock),
            ("interrupt", now.accel_irq - then.accel_irq),
            ("preemption", now.accel_preempt - then.accel_preempt),
            ("grace", now.graces - then.graces),
        ];
        let refusals: [(&str, u64); 3] = [
            ("affinity", now.refused_affinity - then.refused_affinity),
            ("limit", now.refused_limit - then.refused_limit),
            ("no free pCPU", now.refused_full - then.refused_full),
        ];
        let fresh: Vec<u16> = urgent.into_iter().filter(|unit| !self.urgent.contains_key(unit)).collect();
        for (cause, times) in causes.into_iter().filter(|(_, times)| *times > 0) {
            self.urgent.extend(fresh.iter().map(|unit| (*unit, cause)));
            let args = json!({"by": unit, "units": fresh, "times": times});
            self.instant(cause, "acceleration", SCHEDULER, ACCELERATIONS, args)?;
        }
        for (why, times) in refusals.into_iter().filter(|(_, times)| *times > 0) {
            let args = json!({"by": unit, "times": times});
            self.instant(
                &format!("refused or made to wait: {why}"),
                "refusal",
                SCHEDULER,
                ACCELERATIONS,
                args,
            )?;
        }
        Ok(())
    }

    fn resized(&mut self, reader: &mut Reader) -> Result<()> {
        let Some(micro) = reader.pool.look(|pool| pool.shared.micro) else { return Ok(()) };
        if micro == self.micro {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.micro, micro);
        let name = format!("micro cores {} -> {}", before.count_ones(), micro.count_ones());
        self.instant(&name, "resize", SCHEDULER, CONTROL, Value::Null)?;
        self.cores()
    }

    /// The counter.
    fn cores(&mut self) -> Result<()> {
        // Perfetto shows both names.
        let args = json!({"cores": self.micro.count_ones()});
        self.put(&Entry {
            name: "micro",
            ph: "C",
            cat: None,
            ts: self.ts(),
            pid: SCHEDULER,
            tid: CONTROL,
            s: None,
            args,
        })
    }

    fn end(mut self, reader: &Reader) -> Result<()> {
        for slot in 0..MAX_CPUS as u8 {
            self.stop(reader, slot, json!({"left": "the trace ends"}))?;
        }
        // A counter is drawn up to its last value.
        self.cores()?;
        writeln!(self.out, "\n]}}")?;
        Ok(self.out.flush()?)
    }

    fn instant(&mut self, name: &str, cat: &'static str, pid: u32, tid: u32, args: Value) -> Result<()> {
        self.put(&Entry { name, ph: "i", cat: Some(cat), ts: self.ts(), pid, tid, s: Some("t"), args })
    }

    /// Gives a pCPU a track.
    fn track(&mut self, reader: &Reader, slot: u8) -> Result<()> {
        let tid = thread(reader, slot);
        if self.named >> slot & 1 != 0 {
            return Ok(());
        }
        self.named |= 1 << slot;
        self.label("thread_name", PCPUS, Some(tid), &format!("pCPU {}", tid - PCPU_0))?;
        let order = json!({"name": "thread_sort_index", "ph": "M", "pid": PCPUS, "tid": tid, "args": {"sort_index": tid}});
        self.put(&order)
    }

    fn label(&mut self, kind: &str, pid: u32, tid: Option<u32>, name: &str) -> Result<()> {
        let mut entry = json!({"name": kind, "ph": "M", "pid": pid, "args": {"name": name}});
        if let (Some(tid), Some(entry)) = (tid, entry.as_object_mut()) {
            entry.insert("tid".into(), tid.into());
        }
        self.put(&entry)
    }

    fn put(&mut self, entry: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(entry)?;
        Ok(write!(self.out, ",\n{line}")?)
    }
}

/// Adds where in its kernel a unit was, if that is known.
fn at(reader: &Reader, unit: u16, step: &Step, args: &mut Value) {
    let rip = step.record.rip();
    if let Some(args) = args.as_object_mut().filter(|_| rip != 0) {
        let place = reader.names.symbol(unit, rip).unwrap_or_else(|| format!("{rip:#x}"));
        args.insert("at".into(), place.into());
    }
}

/// What a slice is called. Viewers choose its colour by the words in it, not by numbers: hence the domain's name.
fn title(reader: &Reader, unit: u16, work: Work) -> String {
    reader.names.whose(unit) + if work == Work::Micro { " micro" } else { "" }
}

/// The thread of a pCPU of the pool.
fn thread(reader: &Reader, slot: u8) -> u32 {
    u32::from(reader.host(slot)) + PCPU_0
}

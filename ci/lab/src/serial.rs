// SPDX-License-Identifier: GPL-3.0-only
//! Reads a run's serial log: what the dom0 agent says, and every sign that Xen was not well.
//!
//! Agent lines, after `@lab `: `phase NAME UPTIME`, `guest NAME JSON`, `begin NAME`, `| TEXT`,
//! `close NAME STATUS`, `fail WORDS`, `check NAME ok|WORDS`, `end STATUS`. Xen's own lines start with
//! `(XEN)`; one that warns, or that breaks an agent line in two, makes the run worthless.

use anyhow::{Context, Result, bail, ensure};
use microslice_guest::protocol::Event;
use std::collections::BTreeMap;

/// A hypervisor that prints one of these was not well.
const ALARMS: [&str; 13] = [
    "Xen WARN",
    "Xen BUG",
    "Assertion '",
    "Xen call trace",
    "rejected",
    "Panic on CPU",
    "FATAL PAGE FAULT",
    "FATAL TRAP",
    "WARNING:",
    "lock-order",
    "Watchdog timer",
    "BUG at",
    "Domain crash",
];
/// Start-up lines of a stock Xen on QEMU's CPU; not about scheduling.
const HARMLESS: [&str; 4] =
    ["CONSOLE OUTPUT IS SYNCHRONOUS", "EXPERIMENTAL", "NOT SECURITY SUPPORTED", "Speculative"];

/// Output and exit status of a command the agent ran.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    /// Lines.
    pub text: String,
    /// Exit status.
    pub status: i32,
}

/// Everything a finished run said.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    /// Reports of each guest, in order.
    pub guests: BTreeMap<String, Vec<Event>>,
    /// Captured commands by name.
    pub captured: BTreeMap<String, Captured>,
    /// Checks of the control script: name and what is wrong ("" when nothing is).
    pub checks: Vec<(String, String)>,
    /// dom0's uptime at the last phase: virtual seconds of the run.
    pub virtual_s: f64,
}

/// Reads a log line by line, failing as soon as a run is worthless.
#[derive(Default)]
pub struct Reader {
    transcript: Transcript,
    open: Option<String>,
    end: Option<i32>,
}

/// What a line means for someone who watches.
#[derive(Debug, PartialEq)]
pub enum Seen {
    /// A phase began at this virtual second.
    Phase(String, f64),
    /// Nothing to show.
    Other,
}

impl Reader {
    /// Takes one line of the serial log.
    pub fn line(&mut self, line: &str) -> Result<Seen> {
        if is_alarm(line) {
            bail!("Xen complains: {line}");
        }
        let Some(start) = line.find("@lab ") else { return Ok(Seen::Other) };
        let text = &line[start + 5..];
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match word {
            "phase" => {
                let (name, uptime) = rest.split_once(' ').unwrap_or((rest, "0"));
                self.transcript.virtual_s = uptime.trim().parse().unwrap_or(self.transcript.virtual_s);
                return Ok(Seen::Phase(name.to_owned(), self.transcript.virtual_s));
            }
            "guest" => self.guest(rest)?,
            "begin" => {
                self.open = Some(rest.to_owned());
                self.transcript.captured.insert(rest.to_owned(), Captured::default());
            }
            "|" => {
                if let Some(captured) =
                    self.open.as_ref().and_then(|name| self.transcript.captured.get_mut(name))
                {
                    captured.text.push_str(rest);
                    captured.text.push('\n');
                }
            }
            "close" => self.close(rest),
            "check" => {
                let (name, verdict) = rest.split_once(' ').unwrap_or((rest, "no verdict"));
                let wrong = if verdict == "ok" { "" } else { verdict };
                self.transcript.checks.push((name.to_owned(), wrong.to_owned()));
            }
            "fail" => bail!("dom0 agent: {rest}"),
            "end" => self.end = rest.trim().parse().ok(),
            _ => {}
        }
        Ok(Seen::Other)
    }

    fn guest(&mut self, rest: &str) -> Result<()> {
        let (name, json) =
            rest.split_once(' ').with_context(|| format!("guest line without a report: {rest}"))?;
        let event: Event =
            serde_json::from_str(json).with_context(|| format!("report of guest {name}: {json}"))?;
        if let Event::Failed { error } = &event {
            bail!("guest {name}: {error}");
        }
        self.transcript.guests.entry(name.to_owned()).or_default().push(event);
        Ok(())
    }

    fn close(&mut self, rest: &str) {
        let (name, status) = rest.split_once(' ').unwrap_or((rest, "-1"));
        if let Some(captured) = self.transcript.captured.get_mut(name) {
            captured.status = status.trim().parse().unwrap_or(-1);
        }
        self.open = None;
    }

    /// The transcript of a run that came to its end.
    pub fn finish(self) -> Result<Transcript> {
        let status = self.end.context("the machine stopped before the dom0 agent was done")?;
        ensure!(status == 0, "dom0 agent: job ended with status {status}");
        Ok(self.transcript)
    }
}

fn is_alarm(line: &str) -> bool {
    let Some(at) = line.find("(XEN)") else { return false };
    let text = &line[at..];
    ALARMS.iter().any(|alarm| text.contains(alarm)) && !HARMLESS.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Transcript> {
        let mut reader = Reader::default();
        for line in text.lines() {
            reader.line(line)?;
        }
        reader.finish()
    }

    #[test]
    fn a_good_run() {
        let log = "(XEN) Scheduling granularity: cpu\n@lab phase measuring 12.5\n\
                   @lab guest target {\"ev\":\"done\",\"t_ns\":5}\n@lab begin stats\n@lab | {}\n@lab close stats 3\n\
                   @lab check bad-input ok\n@lab check cpu-off xl said no\n@lab end 0\n";
        let run = read(log).unwrap();
        assert_eq!(run.guests["target"], [Event::Done { t_ns: 5 }]);
        assert_eq!((run.captured["stats"].text.as_str(), run.captured["stats"].status), ("{}\n", 3));
        assert_eq!(
            run.checks,
            [("bad-input".into(), String::new()), ("cpu-off".into(), "xl said no".into())]
        );
        assert_eq!(run.virtual_s, 12.5);
    }

    #[test]
    fn what_makes_a_run_worthless() {
        for (log, hint) in [
            ("(XEN) Xen WARN at common/sched/core.c:1\n@lab end 0", "Xen complains"),
            ("(XEN) Assertion 'x' failed at y\n@lab end 0", "Xen complains"),
            ("(XEN) microslice: decision rejected\n@lab end 0", "Xen complains"),
            ("@lab phase measuring 3", "stopped before"),
            ("@lab fail create target\n@lab end 0", "create target"),
            ("@lab guest target {\"ev\":\"failed\",\"error\":\"no cpu\"}\n@lab end 0", "no cpu"),
            ("@lab guest target {\"ev\":\"do(XEN)\n@lab end 0", "report of guest"),
            ("@lab end 1", "status 1"),
        ] {
            let error = format!("{:#}", read(log).unwrap_err());
            assert!(error.contains(hint), "{log}: {error}");
        }
    }
}

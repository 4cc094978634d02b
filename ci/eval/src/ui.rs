// SPDX-License-Identifier: GPL-3.0-only
//! What the user sees while something takes long: a spinner on a terminal, plain lines elsewhere.
//!
//! Every line carries the minutes since the start of the outermost command (`MICROSLICE_T0`, set by
//! `ci/test` and `ci/demo`). Results go to stdout; everything in here goes to stderr.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Plain lines repeat at this interval, so that a log never looks stuck.
const HEARTBEAT: Duration = Duration::from_secs(60);

fn start() -> SystemTime {
    static START: OnceLock<SystemTime> = OnceLock::new();
    *START.get_or_init(|| start_from(std::env::var("MICROSLICE_T0").ok().as_deref(), SystemTime::now()))
}

/// The outermost command's start: `t0` in seconds since the epoch, or `now` if that is absent or no number.
fn start_from(t0: Option<&str>, now: SystemTime) -> SystemTime {
    t0.and_then(|t| t.parse().ok()).map_or(now, |s| UNIX_EPOCH + Duration::from_secs(s))
}

/// Time since the start of the outermost command.
pub fn elapsed() -> Duration {
    SystemTime::now().duration_since(start()).unwrap_or_default()
}

fn stamp() -> String {
    format!("[{:5.1} min]", elapsed().as_secs_f64() / 60.0)
}

/// Prints one line with the elapsed time.
pub fn say(text: &str) {
    eprintln!("{} {text}", stamp());
}

/// Prints something the user should look at.
pub fn warn(text: &str) {
    eprintln!("{} warning: {text}", stamp());
}

/// One long step under way.
pub struct Step {
    what: String,
    began: Instant,
    spoke: Instant,
    bar: Option<ProgressBar>,
}

impl Step {
    /// Announces `what`.
    pub fn new(what: &str) -> Self {
        let now = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner().with_message(what.to_owned());
            let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            say(what);
        }
        Self { what: what.to_owned(), began: now, spoke: now, bar }
    }

    /// Called while waiting: says from time to time that the step is still running.
    pub fn tick(&mut self) {
        if self.bar.is_none() && self.spoke.elapsed() >= HEARTBEAT {
            say(&format!(
                "{} (still at it, {:.1} min)",
                self.what,
                self.began.elapsed().as_secs_f64() / 60.0
            ));
            self.spoke = Instant::now();
        }
    }

    /// Ends the step; says how long it took if that was more than a moment.
    pub fn done(mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let took = self.began.elapsed();
        if took >= Duration::from_secs(2) {
            say(&format!("{}: done in {:.1} min", self.what, took.as_secs_f64() / 60.0));
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elapsed_time_counts_from_the_outermost_command() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(start_from(Some("940"), now), UNIX_EPOCH + Duration::from_secs(940));
        assert_eq!(start_from(Some("soon"), now), now);
        assert_eq!(start_from(None, now), now);
    }
}

// SPDX-License-Identifier: GPL-3.0-only
//! What the daemon knows of a domain, and when it looks again. No watch tells that a kernel has set MSR_LSTAR, that libxl
//! has written its record or that a missing file has come: only for these it looks again, ever more seldom.

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How it stands with a domain's ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Its kernel, or libxl's record of it, is on the way.
    Waiting(&'static str),
    /// They are in force.
    Active(Active),
    /// It gets none, for this reason, until something changes.
    None(String),
    /// It failed, for this reason.
    Failed(String),
}

/// Ranges in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active {
    /// How many.
    pub ranges: usize,
    /// Where they are from.
    pub kernel: PathBuf,
    /// How far they were moved.
    pub slide: i64,
    /// The table's generation.
    pub generation: u64,
}

impl State {
    /// A word for xenstore and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            State::Waiting(_) => "waiting",
            State::Active(_) => "active",
            State::None(_) => "none",
            State::Failed(_) => "failed",
        }
    }

    /// Why it is not active.
    pub fn why(&self) -> &str {
        match self {
            State::Waiting(why) => why,
            State::Active(_) => "",
            State::None(why) | State::Failed(why) => why,
        }
    }

    /// How long to wait after the `tries`th look, from 0; none: until an event.
    fn delay(&self, tries: u32) -> Option<Duration> {
        let (first, most) = match self {
            State::Waiting(_) => (Duration::from_millis(20), Duration::from_secs(1)),
            State::Failed(_) => (Duration::from_secs(1), Duration::from_secs(60)),
            State::Active(_) | State::None(_) => return None,
        };
        Some(first.saturating_mul(1 << tries.min(16)).min(most))
    }
}

/// A domain.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its name when it was looked at last.
    pub name: Option<String>,
    /// Its weight, cap and row are as its rule says.
    pub set: bool,
    /// How it stands.
    pub state: State,
    tries: u32,
    /// When to look again.
    pub next: Option<Instant>,
}

impl Known {
    /// A new one, to be looked at now.
    pub fn new(now: Instant) -> Known {
        Known {
            name: None,
            set: false,
            state: State::Waiting("it has no name yet"),
            tries: 0,
            next: Some(now),
        }
    }

    /// Its rule may be another one: all of it is to be looked at again.
    pub fn again(&mut self, now: Instant) {
        (self.set, self.tries, self.next) = (false, 0, Some(now));
    }

    /// Looks without an answer so far.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// Takes what a look found; whether it is news.
    pub fn found(&mut self, state: State, now: Instant) -> bool {
        let news = self.state != state;
        let same_kind = self.state.word() == state.word();
        self.tries = if same_kind { self.tries.saturating_add(1) } else { 0 };
        self.next = state.delay(self.tries).map(|delay| now + delay);
        self.state = state;
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_become_seldom_and_end_with_the_answer() {
        let start = Instant::now();
        let mut known = Known::new(start);
        assert_eq!(known.next, Some(start));
        let mut delays = Vec::new();
        for _ in 0..9 {
            known.found(State::Waiting("its kernel has not booted yet"), start);
            delays.push(known.next.unwrap().duration_since(start).as_millis());
        }
        assert_eq!(delays, [40, 80, 160, 320, 640, 1_000, 1_000, 1_000, 1_000]);
        let active = Active { ranges: 92, kernel: "/k".into(), slide: 0, generation: 1 };
        assert!(known.found(State::Active(active.clone()), start));
        assert_eq!(known.next, None);
        assert!(!known.found(State::Active(active), start), "no news");
        assert!(known.found(State::Failed("gone".into()), start));
        assert_eq!(known.next, Some(start + Duration::from_secs(1)));
        for _ in 0..40 {
            assert!(!known.found(State::Failed("gone".into()), start), "said once");
        }
        assert_eq!(known.next, Some(start + Duration::from_secs(60)));
        known.again(start);
        assert_eq!((known.next, known.set), (Some(start), false));
    }
}

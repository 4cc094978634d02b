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

    /// Shortest and longest time to the next look; none: until an event.
    fn pace(&self) -> Option<(Duration, Duration)> {
        match self {
            State::Waiting(_) => Some((Duration::from_millis(20), Duration::from_secs(5))),
            State::Failed(_) => Some((Duration::from_secs(1), Duration::from_secs(60))),
            State::Active(_) | State::None(_) => None,
        }
    }
}

/// The next look comes after this part of the time that it has stood so: what takes 16 s is seen within 1 s.
const PART: u32 = 16;

/// A domain.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its name when it was looked at last.
    pub name: Option<String>,
    /// Its weight, cap and row are as its rule says.
    pub set: bool,
    /// How it stands.
    pub state: State,
    /// Since when it stands so.
    since: Instant,
    /// When to look again.
    pub next: Option<Instant>,
}

impl Known {
    /// A new one, to be looked at now.
    pub fn new(now: Instant) -> Known {
        let state = State::Waiting("it has no name yet");
        Known { name: None, set: false, state, since: now, next: Some(now) }
    }

    /// Its rule may be another one: all of it is to be looked at again.
    pub fn again(&mut self, now: Instant) {
        (self.set, self.since, self.next) = (false, now, Some(now));
    }

    /// Takes what a look found; whether it is news.
    pub fn found(&mut self, name: Option<String>, state: State, now: Instant) -> bool {
        let news = self.state != state || self.name != name;
        if self.state.word() != state.word() {
            self.since = now;
        }
        let part = now.saturating_duration_since(self.since) / PART;
        self.next = state.pace().map(|(least, most)| now + part.clamp(least, most));
        (self.name, self.state) = (name, state);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "web";

    /// Looks that find the same for an hour: their number, and the longest time between two of those before `early`.
    fn looks(known: &mut Known, state: &State, start: Instant, early: Duration) -> (u32, Duration) {
        let (mut now, mut count, mut longest) = (start, 0, Duration::ZERO);
        while now.duration_since(start) < Duration::from_secs(3_600) {
            known.found(Some(NAME.into()), state.clone(), now);
            let next = known.next.unwrap();
            if next.duration_since(start) < early {
                longest = longest.max(next.duration_since(now));
            }
            (now, count) = (next, count + 1);
        }
        (count, longest)
    }

    #[test]
    fn a_boot_is_seen_within_a_second_and_one_that_never_comes_costs_little() {
        let start = Instant::now();
        let mut known = Known::new(start);
        assert_eq!(known.next, Some(start));
        let waiting = State::Waiting("its kernel has not booted yet");
        let (count, longest) = looks(&mut known, &waiting, start, Duration::from_secs(16));
        assert!(longest <= Duration::from_secs(1), "{longest:?}");
        assert!((700..900).contains(&count), "{count} looks in an hour");
        let failed = State::Failed("gone".into());
        let (count, longest) = looks(&mut known, &failed, start, Duration::from_secs(16));
        assert!(count < 200 && longest >= Duration::from_secs(1), "{count}, {longest:?}");
    }

    #[test]
    fn looks_end_with_the_answer_and_start_anew_with_a_rule() {
        let start = Instant::now();
        let later = start + Duration::from_secs(100);
        let mut known = Known::new(start);
        let name = || Some(NAME.to_owned());
        let active = Active { ranges: 92, kernel: "/k".into(), slide: 0, generation: 1 };
        assert!(known.found(name(), State::Active(active.clone()), later));
        assert_eq!(known.next, None);
        assert!(!known.found(name(), State::Active(active.clone()), later), "no news");
        assert!(known.found(Some("renamed".into()), State::Active(active), later), "the name is news");
        assert!(known.found(name(), State::Failed("gone".into()), later));
        assert_eq!(known.next, Some(later + Duration::from_secs(1)));
        assert!(!known.found(name(), State::Failed("gone".into()), later), "said once");
        known.set = true;
        known.again(later);
        assert_eq!((known.next, known.set), (Some(later), false));
    }
}

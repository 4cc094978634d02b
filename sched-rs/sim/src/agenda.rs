// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens next: one instant for each source of events, in a tournament tree.
//!
//! A source (a pCPU's slice timer, the vCPU that runs there, a sleeping thread, ...) has at most one event ahead of it, so
//! an event is known by its source. Events of one instant come in the order of their sources' numbers, which is the order
//! of the ranges in [`crate::engine`]; a source that is set again for the same instant comes again after the others of
//! lower number. Nothing depends on addresses, hashing or the host's clock.

/// An instant or a length in nanoseconds of simulated time.
pub type Ns = u64;

/// No event.
pub const NEVER: Ns = Ns::MAX;

/// The tree.
#[derive(Clone, Debug)]
pub struct Agenda {
    at: Vec<Ns>,
    /// `winner[1]` is the source whose event is next; node `i` has children `2i` and `2i + 1`.
    winner: Vec<u32>,
    leaves: usize,
}

impl Agenda {
    /// For `sources` sources, none of which has an event.
    #[must_use]
    pub fn new(sources: usize) -> Self {
        let leaves = sources.next_power_of_two().max(2);
        let mut winner = vec![0; 2 * leaves];
        for (i, w) in winner.iter_mut().skip(leaves).enumerate() {
            *w = i as u32;
        }
        for i in (1..leaves).rev() {
            winner[i] = winner[2 * i];
        }
        Self { at: vec![NEVER; leaves], winner, leaves }
    }

    /// The next event: when, and whose.
    #[inline]
    #[must_use]
    pub fn next(&self) -> (Ns, usize) {
        let source = self.winner[1] as usize;
        (self.at[source], source)
    }

    /// When `source` has its event, [`NEVER`] if it has none.
    #[inline]
    #[must_use]
    pub fn when(&self, source: usize) -> Ns {
        self.at[source]
    }

    /// Gives `source` its event at `when`, in the place of the one it had.
    #[inline]
    pub fn set(&mut self, source: usize, when: Ns) {
        if self.at[source] == when {
            return;
        }
        self.at[source] = when;
        let mut node = (self.leaves + source) / 2;
        while node > 0 {
            let (a, b) = (self.winner[2 * node], self.winner[2 * node + 1]);
            // The left child has the lower sources: it wins ties.
            self.winner[node] = if self.at[b as usize] < self.at[a as usize] { b } else { a };
            node /= 2;
        }
    }

    /// Takes away the event of `source`.
    #[inline]
    pub fn clear(&mut self, source: usize) {
        self.set(source, NEVER);
    }

    /// Gives `source` its event at `when` unless it has an earlier one.
    #[inline]
    pub fn no_later(&mut self, source: usize, when: Ns) {
        if when < self.at[source] {
            self.set(source, when);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_ties_go_to_the_lower_source() {
        let mut a = Agenda::new(5);
        assert_eq!(a.next().0, NEVER);
        a.set(3, 10);
        a.set(1, 10);
        a.set(4, 9);
        assert_eq!(a.next(), (9, 4));
        a.clear(4);
        assert_eq!(a.next(), (10, 1));
        a.set(1, 11);
        assert_eq!(a.next(), (10, 3));
        a.no_later(1, 12);
        assert_eq!(a.when(1), 11);
    }

    #[test]
    fn any_sequence_agrees_with_a_plain_search() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut a = Agenda::new(37);
        let mut plain = vec![NEVER; 37];
        for _ in 0..20_000 {
            let (source, when) = (rng.usize(..37), rng.u64(..50));
            a.set(source, when);
            plain[source] = when;
            let want = plain.iter().enumerate().min_by_key(|(i, t)| (**t, *i)).map(|(i, t)| (*t, i));
            assert_eq!(Some(a.next()), want);
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens next: one instant for each source of events, in a tournament tree.
//!
//! A source (a pCPU's slice timer, the vCPU that runs there, a sleeping thread, ...) has at most one event ahead of it, so
//! an event is known by its source. Events of one instant come in the order of their sources' numbers, which is the order
//! of the ranges in [`crate::engine`]; a source that is set again for the same instant comes again after the others of
//! lower number. Nothing depends on addresses, hashing or the host's clock.

/// An instant or a length in nanoseconds of simulated time.
pub type Ns = u64;

/// Low bits of a key: its source.
const SOURCE: u32 = 16;

/// No event. Instants that can be told apart end here, after three days.
pub const NEVER: Ns = Ns::MAX >> SOURCE;

/// Most sources that an agenda can have.
pub const MOST_SOURCES: usize = 1 << SOURCE;

/// The tree. A key is an instant and, below it, the number of the source: the least key is the next event.
#[derive(Clone, Debug)]
pub struct Agenda {
    /// Node `i` has the least key of its children `2i` and `2i + 1`; from `leaves` on, the sources' own.
    keys: Box<[u64]>,
    leaves: usize,
    /// The leaf whose event was taken. It is mostly set again before the next event is asked for, and the nodes above it are
    /// brought up to date then, once.
    taken: usize,
}

impl Agenda {
    /// For `sources` sources, at most [`MOST_SOURCES`], none of which has an event.
    #[must_use]
    pub fn new(sources: usize) -> Self {
        assert!(sources <= MOST_SOURCES, "an agenda of {sources} sources");
        let leaves = sources.next_power_of_two().max(2);
        let mut keys = vec![key(0, NEVER); 2 * leaves];
        for (source, k) in keys[leaves..].iter_mut().enumerate() {
            *k = key(source, NEVER);
        }
        for i in (1..leaves).rev() {
            keys[i] = keys[2 * i];
        }
        Self { keys: keys.into(), leaves, taken: leaves }
    }

    /// Takes the next event, if it is due by `end` (before [`NEVER`]): when, and whose.
    #[inline]
    pub fn take(&mut self, end: Ns) -> Option<(Ns, usize)> {
        self.rise(self.taken);
        let next = self.keys[1];
        let (when, source) = (next >> SOURCE, next as usize % MOST_SOURCES);
        if when > end {
            return None;
        }
        self.taken = self.leaves + source;
        self.keys[self.taken] = key(source, NEVER);
        Some((when, source))
    }

    /// When `source` has its event, [`NEVER`] if it has none.
    #[inline]
    #[must_use]
    pub fn when(&self, source: usize) -> Ns {
        self.keys[self.leaves + source] >> SOURCE
    }

    /// Gives `source` its event at `when`, in the place of the one it had.
    #[inline]
    pub fn set(&mut self, source: usize, when: Ns) {
        let leaf = self.leaves + source;
        let key = key(source, when);
        if std::mem::replace(&mut self.keys[leaf], key) != key && leaf != self.taken {
            self.rise(leaf);
        }
    }

    /// Brings the nodes above a leaf up to date.
    fn rise(&mut self, leaf: usize) {
        let mut node = leaf;
        let mut least = self.keys[node];
        while node > 1 {
            least = least.min(self.keys[node ^ 1]);
            node /= 2;
            self.keys[node] = least;
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
        if when < self.when(source) {
            self.set(source, when);
        }
    }
}

fn key(source: usize, when: Ns) -> u64 {
    when.min(NEVER) << SOURCE | source as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_ties_go_to_the_lower_source() {
        let mut a = Agenda::new(5);
        assert_eq!(a.take(NEVER - 1), None);
        a.set(3, 10);
        a.set(1, 10);
        a.set(4, 9);
        assert_eq!(a.take(8), None);
        assert_eq!(a.take(9), Some((9, 4)));
        a.set(1, 11);
        a.no_later(1, 12);
        assert_eq!(a.when(1), 11);
        assert_eq!(a.take(11), Some((10, 3)));
        a.set(3, 11);
        assert_eq!(a.take(11), Some((11, 1)));
        a.set(1, Ns::MAX);
        assert_eq!(a.when(1), NEVER);
        a.clear(3);
        assert_eq!(a.take(NEVER - 1), None);
    }

    #[test]
    fn any_sequence_agrees_with_a_plain_search() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut a = Agenda::new(37);
        let mut plain = vec![NEVER; 37];
        for _ in 0..20_000 {
            for _ in 0..rng.u8(..4) {
                let (source, when) = (rng.usize(..37), rng.u64(..50));
                a.set(source, when);
                plain[source] = when;
            }
            let end = rng.u64(..60);
            let want = (0..37).map(|i| (plain[i], i)).min().filter(|(when, _)| *when <= end);
            assert_eq!(a.take(end), want);
            if let Some((_, source)) = want {
                plain[source] = NEVER;
            }
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pool's queue: a treap ordered by (virtual time, arrival) whose nodes also hold the union of the affinity masks
//! below them, so that "the unit that has waited longest in virtual time among those that may run on pCPU c" is one walk
//! from the root. O(log n) expected for every operation; heap priorities come from a generator that is part of the
//! pool's state, so that a replay builds the same tree.
//!
//! The nodes are the units themselves; nothing here allocates. No recursion.

use crate::state::{NIL, Shared, Unit};

/// The queue of a pool, borrowed for one operation.
pub struct Queue<'a> {
    root: &'a mut u16,
    rng: &'a mut u32,
    units: &'a mut [Unit],
}

impl<'a> Queue<'a> {
    /// The queue kept in `shared` and `units`.
    pub fn of(shared: &'a mut Shared, units: &'a mut [Unit]) -> Self {
        Self { root: &mut shared.root, rng: &mut shared.rng, units }
    }

    fn get(&self, i: u16) -> Option<&Unit> {
        self.units.get(usize::from(i))
    }

    fn edit(&mut self, i: u16, f: impl FnOnce(&mut Unit)) {
        if let Some(u) = self.units.get_mut(usize::from(i)) {
            f(u);
        }
    }

    fn prio(&self, i: u16) -> u32 {
        self.get(i).map_or(0, |u| u.prio)
    }

    fn unions(&self, i: u16) -> (u64, u64) {
        self.get(i).map_or((0, 0), |u| (u.any, u.any_prefer))
    }

    /// Brings the unions of `i` up to date; false if they were.
    fn refresh(&mut self, i: u16) -> bool {
        let Some(u) = self.get(i) else { return false };
        let (mask, prefer) = (u.mask, u.prefer);
        let ((la, lp), (ra, rp)) = (self.unions(u.left), self.unions(u.right));
        let Some(u) = self.units.get_mut(usize::from(i)) else { return false };
        let before = (u.any, u.any_prefer);
        u.any = mask | la | ra;
        u.any_prefer = prefer | lp | rp;
        (u.any, u.any_prefer) != before
    }

    /// Puts `new` where its parent `p` had `old`; the root if there is no parent.
    fn replace_child(&mut self, p: u16, old: u16, new: u16) {
        match self.units.get_mut(usize::from(p)) {
            None => *self.root = new,
            Some(u) if u.left == old => u.left = new,
            Some(u) => u.right = new,
        }
    }

    /// Rotates `i` above its parent.
    fn lift(&mut self, i: u16) {
        let Some(u) = self.get(i) else { return };
        let (p, l, r) = (u.up, u.left, u.right);
        let Some(u) = self.units.get_mut(usize::from(p)) else { return };
        let g = u.up;
        let unions = (u.any, u.any_prefer);
        let left = u.left == i;
        let moved = if left { r } else { l };
        *(if left { &mut u.left } else { &mut u.right }) = moved;
        u.up = i;
        self.edit(moved, |u| u.up = p);
        self.edit(i, |u| {
            *(if left { &mut u.right } else { &mut u.left }) = p;
            u.up = g;
            // The same units are below it as were below `p`.
            (u.any, u.any_prefer) = unions;
        });
        self.replace_child(g, p, i);
        self.refresh(p);
    }

    /// Adds unit `i` under its `vtime`, `seq`, `mask` and `prefer`. It must not be in the queue.
    #[inline(always)]
    pub fn insert(&mut self, i: u16) {
        // xorshift32: never zero, period 2^32 - 1.
        *self.rng ^= *self.rng << 13;
        *self.rng ^= *self.rng >> 17;
        *self.rng ^= *self.rng << 5;
        let prio = *self.rng;
        let Some(u) = self.get(i) else { return };
        let (key, mask, prefer) = ((u.vtime, u.seq), u.mask, u.prefer);
        let (mut p, mut at, mut left) = (NIL, *self.root, false);
        while let Some(u) = self.units.get_mut(usize::from(at)) {
            u.any |= mask;
            u.any_prefer |= prefer;
            p = at;
            left = key < (u.vtime, u.seq);
            at = if left { u.left } else { u.right };
        }
        self.edit(i, |u| {
            u.prio = prio;
            u.up = p;
            u.left = NIL;
            u.right = NIL;
            u.any = mask;
            u.any_prefer = prefer;
        });
        match self.units.get_mut(usize::from(p)) {
            None => *self.root = i,
            Some(u) if left => u.left = i,
            Some(u) => u.right = i,
        }
        while self.get(i).and_then(|u| self.get(u.up)).is_some_and(|p| p.prio < prio) {
            self.lift(i);
        }
    }

    /// Takes unit `i` out. It must be in the queue.
    #[inline(always)]
    pub fn remove(&mut self, i: u16) {
        let (p, kid) = loop {
            let Some(u) = self.get(i) else { return };
            let (l, r) = (u.left, u.right);
            if l == NIL || r == NIL {
                break (u.up, if l == NIL { r } else { l });
            }
            self.lift(if self.prio(l) > self.prio(r) { l } else { r });
        };
        self.replace_child(p, i, kid);
        self.edit(kid, |k| k.up = p);
        self.edit(i, |u| {
            u.up = NIL;
            u.any = 0;
            u.any_prefer = 0;
        });
        // Where nothing changes, nothing changes above.
        let mut at = p;
        while self.refresh(at) {
            at = self.get(at).map_or(NIL, |u| u.up);
        }
    }

    /// The first unit in order that one of the pCPUs in `cpus` may take; [`NIL`] if there is none.
    #[must_use]
    pub fn first(&self, cpus: u64) -> u16 {
        self.walk(cpus, |u| (u.mask, u.any))
    }

    /// The first unit in order that prefers one of the pCPUs in `cpus`; [`NIL`] if there is none.
    #[must_use]
    pub fn first_preferring(&self, cpus: u64) -> u16 {
        self.walk(cpus, |u| (u.prefer, u.any_prefer))
    }

    fn walk(&self, cpus: u64, masks: impl Fn(&Unit) -> (u64, u64)) -> u16 {
        let below = |i: u16| self.get(i).filter(|u| masks(u).1 & cpus != 0);
        let mut at = *self.root;
        let Some(mut u) = below(at) else { return NIL };
        loop {
            let next = if let Some(l) = below(u.left) {
                (u.left, l)
            } else if masks(u).0 & cpus != 0 {
                return at;
            } else if let Some(r) = below(u.right) {
                (u.right, r)
            } else {
                return NIL;
            };
            (at, u) = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    /// The queue against a sorted list, over many random operations.
    #[test]
    fn the_queue_agrees_with_a_sorted_list() {
        let mut shared = Shared::EMPTY;
        let mut units = vec![Unit::ABSENT; 200];
        let mut model: Vec<(u64, u64, u16)> = Vec::new();
        let mut x = 12345u64;
        let mut rand = |n: u64| {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (x >> 33) % n
        };
        for seq in 0..20_000u64 {
            let i = rand(200) as u16;
            let u = &mut units[i as usize];
            if let Some(at) = model.iter().position(|m| m.2 == i) {
                model.remove(at);
                Queue::of(&mut shared, &mut units).remove(i);
            } else {
                (u.vtime, u.seq, u.mask) = (rand(50), seq, rand(16));
                u.prefer = u.mask & rand(16);
                model.push((u.vtime, seq, i));
                model.sort_unstable();
                Queue::of(&mut shared, &mut units).insert(i);
            }
            for cpus in [1, 2, 4, 8, 15] {
                let want = model.iter().find(|m| units[m.2 as usize].mask & cpus != 0);
                let prefer = model.iter().find(|m| units[m.2 as usize].prefer & cpus != 0);
                let q = Queue::of(&mut shared, &mut units);
                let (got, got_prefer) = (q.first(cpus), q.first_preferring(cpus));
                assert_eq!(got, want.map_or(NIL, |m| m.2), "step {seq}, pCPUs {cpus:#b}");
                assert_eq!(got_prefer, prefer.map_or(NIL, |m| m.2), "step {seq}, pCPUs {cpus:#b}");
            }
        }
    }
}

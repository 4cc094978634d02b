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

    fn up(&self, i: u16) -> u16 {
        self.get(i).map_or(NIL, |u| u.up)
    }

    fn kids(&self, i: u16) -> (u16, u16) {
        self.get(i).map_or((NIL, NIL), |u| (u.left, u.right))
    }

    fn prio(&self, i: u16) -> u32 {
        self.get(i).map_or(0, |u| u.prio)
    }

    fn key(&self, i: u16) -> (u64, u64) {
        self.get(i).map_or((0, 0), |u| (u.vtime, u.seq))
    }

    fn unions(&self, i: u16) -> (u64, u64) {
        self.get(i).map_or((0, 0), |u| (u.any, u.any_prefer))
    }

    fn refresh(&mut self, i: u16) {
        let (l, r) = self.kids(i);
        let (la, lp) = self.unions(l);
        let (ra, rp) = self.unions(r);
        self.edit(i, |u| {
            u.any = u.mask | la | ra;
            u.any_prefer = u.prefer | lp | rp;
        });
    }

    /// Puts `new` where its parent `p` had `old`; the root if there is no parent.
    fn replace_child(&mut self, p: u16, old: u16, new: u16) {
        if p == NIL {
            *self.root = new;
        }
        self.edit(p, |u| {
            if u.left == old {
                u.left = new;
            } else {
                u.right = new;
            }
        });
    }

    /// Rotates `i` above its parent.
    fn lift(&mut self, i: u16) {
        let p = self.up(i);
        let g = self.up(p);
        let (l, r) = self.kids(i);
        let moved = if self.kids(p).0 == i {
            self.edit(p, |u| u.left = r);
            self.edit(i, |u| u.right = p);
            r
        } else {
            self.edit(p, |u| u.right = l);
            self.edit(i, |u| u.left = p);
            l
        };
        self.edit(moved, |u| u.up = p);
        self.edit(p, |u| u.up = i);
        self.edit(i, |u| u.up = g);
        self.replace_child(g, p, i);
        self.refresh(p);
        self.refresh(i);
    }

    /// Adds unit `i` under its `vtime`, `seq`, `mask` and `prefer`. It must not be in the queue.
    pub fn insert(&mut self, i: u16) {
        // xorshift32: never zero, period 2^32 - 1.
        *self.rng ^= *self.rng << 13;
        *self.rng ^= *self.rng >> 17;
        *self.rng ^= *self.rng << 5;
        let prio = *self.rng;
        let key = self.key(i);
        let (mut p, mut at, mut left) = (NIL, *self.root, false);
        while at != NIL {
            p = at;
            left = key < self.key(at);
            let (l, r) = self.kids(at);
            at = if left { l } else { r };
        }
        self.edit(i, |u| {
            u.prio = prio;
            u.up = p;
            u.left = NIL;
            u.right = NIL;
            u.any = u.mask;
            u.any_prefer = u.prefer;
        });
        if p == NIL {
            *self.root = i;
            return;
        }
        self.edit(p, |u| {
            if left {
                u.left = i;
            } else {
                u.right = i;
            }
        });
        let (mask, prefer) = self.unions(i);
        let mut at = p;
        while at != NIL {
            self.edit(at, |u| {
                u.any |= mask;
                u.any_prefer |= prefer;
            });
            at = self.up(at);
        }
        while self.up(i) != NIL && self.prio(self.up(i)) < prio {
            self.lift(i);
        }
    }

    /// Takes unit `i` out. It must be in the queue.
    pub fn remove(&mut self, i: u16) {
        loop {
            let (l, r) = self.kids(i);
            if l == NIL && r == NIL {
                break;
            }
            let kid = if r == NIL || (l != NIL && self.prio(l) > self.prio(r)) { l } else { r };
            self.lift(kid);
        }
        let p = self.up(i);
        self.replace_child(p, i, NIL);
        self.edit(i, |u| {
            u.up = NIL;
            u.any = 0;
            u.any_prefer = 0;
        });
        let mut at = p;
        while at != NIL {
            self.refresh(at);
            at = self.up(at);
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
        let below = |i: u16| self.get(i).map_or(0, |u| masks(u).1) & cpus != 0;
        let mut at = *self.root;
        if !below(at) {
            return NIL;
        }
        loop {
            let (l, r) = self.kids(at);
            if below(l) {
                at = l;
            } else if self.get(at).map_or(0, |u| masks(u).0) & cpus != 0 {
                return at;
            } else if below(r) {
                at = r;
            } else {
                return NIL;
            }
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

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The paper's own system: micro cores on top of the credit scheduler of Xen 4.7, as its published code behaves but for two rules.
//!
//! This is a peer to compare with, and the only model that can be held against the paper's figures: whatever is
//! wrong there is wrong in the guests or in this file, not in the difference between two normal schedulers. Source: "Accelerating
//! Critical OS Services in Virtualized Systems with Flexible Micro-sliced Cores" (EuroSys'18) and the code that its
//! authors published (branches for static and for dynamic cores, on 4.7.2).
//!
//! - Micro cores belong to the same instance of credit: it hands out the credit of all pCPUs, and who runs on a micro core
//!   burns its own. Slice 0.1 ms, no rate limit, no boost, no stealing to or from.
//! - A vCPU that yields on a normal core is judged by the instruction pointer that was saved when it last lost its pCPU ([`Left`]), not
//!   by the present one:
//!   user mode: a plain yield; waiting for IPIs, or halted in a lock wait (see [`Left::Poll`]): all siblings that do not
//!   run are moved to micro cores, halted ones too, and it does *not* yield; waiting for
//!   a lock: the first sibling that was preempted inside a critical service, or was woken from a lock wait and waits for a
//!   pCPU, is moved, and it does not yield if that, or another sibling, is on a micro core now; idle: the same, but it yields;
//!   anything else in the kernel: nothing, and it does not yield.
//! - A micro core takes one vCPU more than it runs: an idle one first, else one without a queue.
//! - After a micro slice a vCPU is UNDER, whatever it had burnt, and keeps the core until another one is queued there. Then it goes
//!   to the pCPU that it came from, with a BOOST. Who halts on a micro core wakes up there.
//! - Yields are not held back by the rate limit, as they are in 4.7 itself.
//! - Dynamic sizing: 10 ms without micro cores; none needed: again after 20 ms. More yields in lock waits than in IPI waits: one
//!   for 1 s. Else one, two and three for 10 ms each, and three for 1 s: the number with the fewest yields is found and not used.
//!   A pCPU becomes a micro core as it is, with what runs and what is queued there.
//!
//! Where text and code contradict each other, the text holds:
//! - [`Micro::relay`]: an event for a preempted vCPU moves it too. The published code has it not.
//! - A wait for an IPI to one vCPU is a wait for IPIs. In the published code it is a plain yield.

use crate::agenda::{NEVER, Ns};
use crate::credit::{Credit, cycle};
use crate::sched::{Left, NIL, Out};

/// Micro cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Micro {
    /// How many; under dynamic sizing not used.
    pub cores: u8,
    /// Their slice.
    pub slice: Ns,
    /// The number follows the yields.
    pub dynamic: bool,
    /// Events for preempted vCPUs count.
    pub relay: bool,
}

/// Most micro cores under dynamic sizing.
const LIMIT: u32 = 3;
/// How long each number of cores is tried.
const STEP: Ns = 10_000_000;
/// How long the chosen number stays.
const EPOCH: Ns = 1_000_000_000;

/// Which pCPUs are micro cores, and the state of their sizing.
#[derive(Debug)]
pub(crate) struct Pool {
    /// One bit for each micro core.
    pub(crate) mask: u64,
    pub(crate) slice: Ns,
    dynamic: bool,
    /// Micro cores that somebody was moved to and nobody has left since: they stay micro cores.
    locked: u64,
    /// A number of cores is being tried.
    trying: bool,
    /// Yields since the last step: in IPI waits, in lock waits.
    seen: [u64; 2],
}

impl Pool {
    pub(crate) fn new(cpus: u8, micro: Option<Micro>) -> Self {
        let all = !0u64 >> (64 - cpus);
        let cores = micro.map_or(0, |m| if m.dynamic { 0 } else { m.cores.min(cpus - 1) });
        Self {
            mask: all & !(all >> cores),
            slice: micro.map_or(0, |m| m.slice),
            dynamic: micro.is_some_and(|m| m.dynamic),
            locked: 0,
            trying: false,
            seen: [0; 2],
        }
    }

    #[inline]
    pub(crate) fn has(&self, cpu: u8) -> bool {
        self.mask & 1 << cpu != 0
    }

    /// When sizing has its first step.
    pub(crate) fn first_step(&self, now: Ns) -> Ns {
        if self.dynamic { now + STEP } else { NEVER }
    }
}

impl Credit {
    /// A micro core that can take another vCPU of these pCPUs.
    fn free_micro(&self, hard: u64) -> Option<u8> {
        let micro = self.pool.mask & hard;
        let find = |idle: bool| {
            let mut left = micro;
            while left != 0 {
                let cpu = left.trailing_zeros() as u8;
                left &= left - 1;
                let c = &self.cpus[usize::from(cpu)];
                if c.queue.is_empty() && (c.cur == NIL || !idle) {
                    return Some(cpu);
                }
            }
            None
        };
        find(true).or_else(|| find(false))
    }

    /// Moves a vCPU that does not run from a normal core to a micro core. False if none has room.
    pub(crate) fn offload(&mut self, v: u16, out: &mut Out<'_>) -> bool {
        let u = self.units[usize::from(v)];
        let from = &mut self.cpus[usize::from(u.cpu)];
        if self.pool.has(u.cpu) || from.cur == v {
            return false;
        }
        let Some(cpu) = self.free_micro(u.hard) else { return false };
        self.cpus[usize::from(u.cpu)].queue.retain(|w| *w != v);
        let unit = &mut self.units[usize::from(v)];
        (unit.home, unit.cpu, unit.turbo) = (u.cpu, cpu, true);
        self.pool.locked |= 1 << cpu;
        if u.awake {
            self.wake_up(v, out);
        }
        true
    }

    /// vCPU `v` yields: what is done for its siblings. True if it does yield.
    pub(crate) fn offload_siblings(&mut self, v: u16, out: &mut Out<'_>) -> bool {
        let me = self.units[usize::from(v)];
        if self.pool.has(me.cpu) {
            return true;
        }
        match me.left {
            Left::User => return true,
            Left::Kernel | Left::Critical => return false,
            Left::Ipi | Left::Poll => self.pool.seen[0] += 1,
            Left::Lock => self.pool.seen[1] += 1,
            Left::Halt => {}
        }
        let all = matches!(me.left, Left::Ipi | Left::Poll);
        let mut there = false;
        for w in 0..self.units.len() as u16 {
            let u = self.units[usize::from(w)];
            if u.dom != me.dom || self.cpus[usize::from(u.cpu)].cur == w {
                continue;
            }
            if self.pool.has(u.cpu) {
                there = true;
            } else if all || (u.awake && !u.gave_way && matches!(u.left, Left::Critical | Left::Poll)) {
                if !self.offload(w, out) {
                    break;
                }
                there = true;
                if !all {
                    break;
                }
            }
        }
        match me.left {
            Left::Ipi | Left::Poll => false,
            Left::Lock => !there,
            _ => true,
        }
    }

    /// A vCPU has left a pCPU; from a micro core it goes to where it came from.
    pub(crate) fn go_home(&mut self, v: u16, out: &mut Out<'_>) {
        let u = self.units[usize::from(v)];
        if !self.pool.has(u.cpu) || !u.awake || self.cpus[usize::from(u.cpu)].cur == v {
            return;
        }
        self.pool.locked &= !(1 << u.cpu);
        self.cpus[usize::from(u.cpu)].queue.retain(|w| *w != v);
        let normal = !self.pool.mask & u.hard & (!0 >> (64 - self.cpus.len()));
        let home = if normal & 1 << u.home != 0 { Some(u.home) } else { cycle(u.home, normal) };
        let unit = &mut self.units[usize::from(v)];
        (unit.cpu, unit.turbo) = (home.unwrap_or(u.home), false);
        self.wake_up(v, out);
    }

    /// One step of the sizing; when the next one is.
    pub(crate) fn resize(&mut self, now: Ns, out: &mut Out<'_>) -> Ns {
        let [ipi, lock] = std::mem::take(&mut self.pool.seen);
        let n = self.pool.mask.count_ones();
        let (more, trying, span) = if !self.pool.trying {
            self.empty(now, out);
            (false, true, STEP)
        } else if n == 0 && ipi == 0 && lock == 0 {
            (false, false, 2 * STEP)
        } else if n == 0 && lock > ipi {
            (true, false, EPOCH)
        } else if n >= LIMIT {
            (false, false, EPOCH)
        } else {
            (true, true, STEP)
        };
        self.pool.trying = trying;
        if more {
            self.grow(out);
        }
        now + span
    }

    /// All micro cores but those that somebody was moved to are normal again.
    fn empty(&mut self, now: Ns, out: &mut Out<'_>) {
        let mut back = self.pool.mask & !self.pool.locked;
        self.pool.mask &= self.pool.locked;
        while back != 0 {
            let cpu = back.trailing_zeros() as usize;
            back &= back - 1;
            if self.cpus[cpu].cur == NIL {
                self.idlers |= 1 << cpu;
            } else {
                self.set_tick(now, cpu, out);
            }
            *out.poke |= 1 << cpu;
        }
    }

    /// The last normal pCPU becomes a micro core, with all that is there.
    fn grow(&mut self, out: &mut Out<'_>) {
        let normal = !self.pool.mask & (!0 >> (64 - self.cpus.len()));
        if normal.count_ones() > 1 {
            let cpu = 63 - normal.leading_zeros() as usize;
            self.pool.mask |= 1 << cpu;
            self.idlers &= !(1 << cpu);
            out.clear(1 + cpu);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agenda::Agenda;
    use crate::credit::{Pri, Settings};
    use crate::sched::{Domain, Sched, last};
    use microslice_core::Class;

    /// vCPUs 0 to 2 of a guest and 3 to 5 of another on three normal cores and a micro core. 0, 1 and 2 run on pCPUs 0, 1 and 2 until
    /// their slices end at `left`; then the others run there.
    fn crowded(left: Left) -> (Credit, u64, Agenda) {
        let dom = |first: u16| Domain { vcpus: first..first + 3, weight: 256, cap: 0, hard: !0 };
        let micro = Micro { cores: 1, slice: 100_000, dynamic: false, relay: false };
        let set = Settings { micro: Some(micro), limit_yields: false, ..Settings::XEN_4_7 };
        let mut c = Credit::new(4, set, &[dom(0), dom(3)], &[0, 1, 2, 0, 1, 2]);
        let (mut poke, mut agenda) = (0, Agenda::new(16));
        let mut out = Out { poke: &mut poke, agenda: &mut agenda, first: 0 };
        for v in 0..6 {
            c.wake(0, v, &mut out);
        }
        for now in [0, 30_000_000] {
            for cpu in 0..3 {
                c.schedule(now, cpu, last(now > 0, left), &mut out);
            }
        }
        assert!((0..3).all(|v| c.cpus[usize::from(c.units[v].cpu)].cur != v as u16));
        poke = 0;
        (c, poke, agenda)
    }

    #[test]
    fn who_waits_for_ipis_moves_its_siblings_and_stays() {
        let (mut c, mut poke, mut agenda) = crowded(Left::Ipi);
        let mut out = Out { poke: &mut poke, agenda: &mut agenda, first: 0 };
        // vCPU 0 runs again: the yield is judged by what it was at when it left.
        c.cpus[0].queue.retain(|v| *v != 0);
        (c.cpus[0].cur, c.cpus[0].until) = (0, 70_000_000);
        c.offer(40_000_000, 0, Class::None, &mut out);
        assert_eq!(c.schedule(40_000_000, 0, last(true, Left::Ipi), &mut out), (0, 30_000_000));
        // One micro core runs one and queues one.
        assert_eq!((c.units[1].cpu, c.units[2].cpu), (3, 2));
        assert_eq!(c.schedule(40_001_000, 3, last(false, Left::User), &mut out), (1, 100_000));
        c.offer(40_050_000, 0, Class::None, &mut out);
        assert_eq!(c.units[2].cpu, 3);
        // After its slice the first goes home with a boost.
        assert_eq!(c.schedule(40_101_000, 3, last(true, Left::User), &mut out).0, 2);
        c.saved(40_101_000, 1, &mut out);
        assert_eq!((c.units[1].cpu, c.units[1].pri), (1, Pri::Boost));
        // The second keeps the core, since nobody waits for it.
        assert_eq!(c.schedule(40_201_000, 3, last(true, Left::User), &mut out).0, 2);
    }

    #[test]
    fn who_spins_moves_one_that_was_in_a_critical_service() {
        for (left, moved) in [(Left::Critical, 1), (Left::Poll, 1), (Left::Kernel, 0), (Left::User, 0)] {
            let (mut c, mut poke, mut agenda) = crowded(left);
            let mut out = Out { poke: &mut poke, agenda: &mut agenda, first: 0 };
            c.cpus[0].queue.retain(|v| *v != 0);
            (c.cpus[0].cur, c.cpus[0].until, c.units[0].left) = (0, 70_000_000, Left::Lock);
            c.offer(40_000_000, 0, Class::LockWait, &mut out);
            assert_eq!(c.units.iter().filter(|u| u.cpu == 3).count(), moved, "{left:?}");
            assert_eq!(c.units[0].yielded, moved == 0, "{left:?}");
        }
    }

    #[test]
    fn sizing_has_none_without_yields_and_three_with_ipi_waits() {
        let micro = Micro { cores: 0, slice: 100_000, dynamic: true, relay: false };
        let dom = Domain { vcpus: 0..1, weight: 256, cap: 0, hard: !0 };
        let mut c = Credit::new(8, Settings { micro: Some(micro), ..Settings::XEN_4_7 }, &[dom], &[0]);
        let (mut poke, mut agenda) = (0, Agenda::new(16));
        let mut out = Out { poke: &mut poke, agenda: &mut agenda, first: 0 };
        let mut step = |c: &mut Credit, seen| {
            c.pool.seen = seen;
            (c.resize(0, &mut out), c.pool.mask.count_ones())
        };
        assert_eq!(step(&mut c, [0, 0]), (STEP, 0));
        assert_eq!(step(&mut c, [0, 0]), (2 * STEP, 0));
        assert_eq!(step(&mut c, [9, 9]), (STEP, 0));
        // Spinning prevails: one core.
        assert_eq!(step(&mut c, [1, 2]), (EPOCH, 1));
        assert_eq!(step(&mut c, [5, 0]), (STEP, 0));
        for n in 1..=3 {
            assert_eq!(step(&mut c, [5, 2]), (STEP, n));
        }
        assert_eq!(step(&mut c, [5, 2]), (EPOCH, 3));
    }
}

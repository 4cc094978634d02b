// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a VM does: roles of threads, each a loop of steps, and the locks and queues they share.
//!
//! Files under `tests/scenarios/workloads` are these structures in YAML. [`Workload::compile`] turns steps into the
//! machine's operations, checking that names and ranges are right.

use crate::agenda::Ns;
use microslice_core::Class;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A workload as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// What it stands for; not read by the machine.
    pub about: String,
    /// Numbers by name, each with its origin.
    #[serde(default)]
    pub params: BTreeMap<String, Param>,
    /// Locks by name.
    #[serde(default)]
    pub locks: BTreeMap<String, LockSpec>,
    /// Bounded queues by name, with their capacity.
    #[serde(default)]
    pub queues: BTreeMap<String, u32>,
    /// Threads.
    pub roles: Vec<Role>,
}

/// A number with its origin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Param {
    /// The number.
    pub value: f64,
    /// Bounds between which the calibrator may set it; without them it stays as written.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fit: Option<[f64; 2]>,
    /// Where it comes from: a source, an estimate and its reason, or what it was fitted to.
    pub origin: String,
}

/// A number where it is used: itself, or the name of a [`Param`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Num {
    /// Itself.
    Value(f64),
    /// One of [`Workload::params`].
    Name(String),
}

impl Default for Num {
    fn default() -> Self {
        Self::Value(0.0)
    }
}

/// A lock, or several alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockSpec {
    /// Spin lock, or a mutex or semaphore that spins while its owner runs and blocks otherwise.
    #[serde(default)]
    pub kind: LockKind,
    /// How many there are; each use takes one by chance.
    #[serde(default = "one")]
    pub count: u16,
    /// Mean time held, microseconds, exponentially distributed; steps inside come on top.
    pub hold_us: Num,
    /// Interrupts are off while it is held and waited for.
    #[serde(default)]
    pub irq_off: bool,
    /// Share of the holding time that the instruction pointer is inside a listed critical symbol.
    #[serde(default)]
    pub seen: Num,
}

/// See [`LockSpec::kind`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockKind {
    /// Whoever runs and spins may get it: what Linux does on a hypervisor without paravirtual spin locks (`virt_spin_lock`).
    #[default]
    Spin,
    /// Linux 4.4's queued lock on Xen (`qspinlock_paravirt.h`, `xen_qlock_wait`): first come, first served, also if the next one is
    /// preempted; nobody steals it. Who has spun for [`crate::costs::Costs::pv_spin`] halts in SCHEDOP_poll until it is kicked by
    /// the one that releases the lock to it, or gets any other event, and spins anew.
    Pv,
    /// First come, first served, without halting: ticket locks.
    Fifo,
    /// Linux 4.4's adaptive mutex, or rw-semaphore taken for writing: who comes while the owner is on its vCPU, preempted or not, spins, else it
    /// blocks. Those that spin queue (`osq_lock`), first come, first served, preempted or not: only the first looks at the lock and
    /// its owner. Who comes while the lock is free takes it at once; who was woken blocks again if it is not free.
    Mutex,
    /// rw-semaphore with readers, or a lock in user mode on futexes: waiters block.
    Sleep,
}

impl LockKind {
    /// A thread that waits for it or holds it cannot block.
    #[must_use]
    pub fn is_atomic(self) -> bool {
        matches!(self, Self::Pv | Self::Spin | Self::Fifo)
    }

    /// It is handed over to who has waited longest.
    #[must_use]
    pub fn is_queued(self) -> bool {
        matches!(self, Self::Pv | Self::Fifo)
    }
}

/// Threads that do the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// How many threads.
    pub threads: u16,
    /// What each does, over and over.
    pub steps: Vec<Step>,
}

/// One step. Exactly one of the kinds is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Probability that the step is done (default 1).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub p: Option<Num>,
    /// User-mode work, mean microseconds, exponential.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user_us: Option<Num>,
    /// Kernel work outside of critical services, mean microseconds, exponential.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kernel_us: Option<Num>,
    /// Take the lock, hold it, do `inside`, release it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lock: Option<String>,
    /// Steps under the lock.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub inside: Vec<Step>,
    /// TLB shootdown: an IPI to so many other vCPUs that run threads of this VM (0: all), then wait for all.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tlb: Option<u8>,
    /// Sleep for a mean time, microseconds, exponential: disk, timer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sleep_us: Option<Num>,
    /// The length of `user_us` or `sleep_us` is even within this share of its mean, not exponential.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub even: Option<f32>,
    /// Put an item into a queue; block while it is full.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub put: Option<String>,
    /// Take an item from a queue; block while it is empty.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub get: Option<String>,
    /// Units of work done.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub done: Option<u32>,
    /// A hostile guest: user-mode work of a mean length, microseconds, then a yield that pretends to wait for IPIs. Preempted
    /// in it, the vCPU pretends to hold a lock.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub feign_us: Option<Num>,
    /// Read what the network stack has for this socket; block while there is nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub receive: Option<Num>,
}

fn one() -> u16 {
    1
}

/// Why a workload is refused.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A step names a lock or queue that is not declared.
    #[error("step {0}: there is no {1} called {2:?}")]
    Unknown(usize, &'static str, String),
    /// A number names a parameter that is not declared.
    #[error("there is no parameter called {0:?}")]
    Param(String),
    /// A step has none or several kinds.
    #[error(
        "step {0}: exactly one of user_us, kernel_us, lock, tlb, sleep_us, put, get, done, feign_us, receive is wanted"
    )]
    Kind(usize),
    /// A number is out of range.
    #[error("{0} is out of range")]
    Range(String),
    /// Locks nest too deep.
    #[error("step {0}: more than {MAX_HELD} locks are held at once")]
    Depth(usize),
    /// A lock that blocks inside one that spins.
    #[error("step {0}: blocks or waits for IPIs while a spin lock is held")]
    Atomic(usize),
}

/// Locks one thread may hold at once.
pub const MAX_HELD: usize = 3;

/// An operation of the machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// User-mode work of a mean length, and how it is distributed: see [`Step::even`].
    User(Ns, Option<f32>),
    /// Kernel work of a mean length.
    Kernel(Ns),
    /// Take one of `count` locks from `first` on.
    Acquire {
        /// Index of the first lock.
        first: u16,
        /// How many alike.
        count: u16,
        /// Lock group, for statistics and properties.
        group: u8,
    },
    /// Hold the innermost lock for a mean time.
    Hold(Ns),
    /// Release the innermost lock.
    Release,
    /// TLB shootdown to so many others, 0 for all.
    Shoot(u8),
    /// Sleep for a mean time, as for user-mode work.
    Sleep(Ns, Option<f32>),
    /// Put into queue.
    Put(u8),
    /// Take from queue.
    Get(u8),
    /// With a probability of p / 2^32 go on, else skip so many operations.
    Maybe(u32, u16),
    /// Work done.
    Done(u32),
    /// User-mode work of a mean length, then a false yield.
    Feign(Ns),
    /// Read from the socket; the cost of a packet in user mode.
    Receive(Ns),
}

/// A lock group's properties.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: LockKind,
    /// Interrupts are off while it is waited for and held.
    pub irq_off: bool,
    /// Chance, of 2^32, that a preempted holder is seen to be in a critical service.
    pub seen: u32,
    /// What it is seen to be in.
    pub class: Class,
}

/// A workload ready to run.
#[derive(Clone, Debug)]
pub struct Program {
    /// For each role: its threads and their operations.
    pub roles: Vec<(u16, Vec<Op>)>,
    /// Lock groups.
    pub groups: Vec<Group>,
    /// Locks in all.
    pub locks: u16,
    /// Capacities of the queues.
    pub queues: Vec<u32>,
}

/// A probability as a share of 2^32.
fn share(p: f64) -> u32 {
    if p >= 1.0 { u32::MAX } else { (p * 4_294_967_296.0) as u32 }
}

fn ns(us: f64) -> Ns {
    (us * 1_000.0) as Ns
}

struct Compiler<'a> {
    from: &'a Workload,
    names: Vec<&'a String>,
    first: Vec<u16>,
    queues: Vec<&'a String>,
    at: usize,
}

impl Workload {
    /// Checks the workload and turns it into operations.
    ///
    /// # Errors
    /// The first fault found.
    pub fn compile(&self) -> Result<Program, Fault> {
        let mut locks = 0u16;
        let (mut groups, mut first) = (vec![], vec![]);
        for (name, l) in &self.locks {
            let (seen, hold_us) = (self.number(&l.seen)?, self.number(&l.hold_us)?);
            let fine = l.count > 0 && (0.0..=1.0).contains(&seen) && (0.0..1e6).contains(&hold_us);
            if !fine {
                return Err(Fault::Range(format!("lock {name}")));
            }
            first.push(locks);
            locks = locks.checked_add(l.count).ok_or_else(|| Fault::Range("number of locks".into()))?;
            let class = if name.starts_with("page") { Class::PageAlloc } else { Class::LockHold };
            groups.push(Group {
                name: name.clone(),
                kind: l.kind,
                irq_off: l.irq_off,
                seen: share(seen),
                class,
            });
        }
        let mut c = Compiler {
            from: self,
            names: self.locks.keys().collect(),
            first,
            queues: self.queues.keys().collect(),
            at: 0,
        };
        let mut roles = vec![];
        for role in &self.roles {
            let mut ops = vec![];
            c.steps(&role.steps, &mut ops, 0, false)?;
            let takes_time = ops.iter().any(|op| {
                matches!(
                    op,
                    Op::User(1.., _)
                        | Op::Kernel(1..)
                        | Op::Feign(1..)
                        | Op::Sleep(1.., _)
                        | Op::Receive(1..)
                )
            });
            if role.threads == 0 || !takes_time {
                return Err(Fault::Range("a role without threads, or whose loop takes no time,".into()));
            }
            roles.push((role.threads, ops));
        }
        Ok(Program { roles, groups, locks, queues: self.queues.values().copied().collect() })
    }

    /// What a number is.
    ///
    /// # Errors
    /// If it names a parameter that is not declared.
    pub fn number(&self, n: &Num) -> Result<f64, Fault> {
        match n {
            Num::Value(v) => Ok(*v),
            Num::Name(name) => {
                self.params.get(name).map(|p| p.value).ok_or_else(|| Fault::Param(name.clone()))
            }
        }
    }

    /// Threads of all roles.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.roles.iter().map(|r| usize::from(r.threads)).sum()
    }
}

impl Compiler<'_> {
    fn steps(&mut self, steps: &[Step], ops: &mut Vec<Op>, depth: usize, atomic: bool) -> Result<(), Fault> {
        for step in steps {
            self.at += 1;
            let mut own = vec![];
            self.step(step, &mut own, depth, atomic)?;
            if let Some(p) = &step.p {
                let p = self.from.number(p)?;
                if !(0.0..=1.0).contains(&p) {
                    return Err(Fault::Range(format!("p of step {}", self.at)));
                }
                ops.push(Op::Maybe(share(p), own.len() as u16));
            }
            ops.append(&mut own);
        }
        Ok(())
    }

    fn step(&mut self, s: &Step, ops: &mut Vec<Op>, depth: usize, atomic: bool) -> Result<(), Fault> {
        let at = self.at;
        let kinds = [
            s.user_us.is_some(),
            s.kernel_us.is_some(),
            s.lock.is_some(),
            s.tlb.is_some(),
            s.sleep_us.is_some(),
            s.put.is_some(),
            s.get.is_some(),
            s.done.is_some(),
            s.feign_us.is_some(),
            s.receive.is_some(),
        ];
        if kinds.iter().filter(|k| **k).count() != 1 || (s.lock.is_none() && !s.inside.is_empty()) {
            return Err(Fault::Kind(at));
        }
        let has_length = s.user_us.is_some() || s.sleep_us.is_some();
        if s.even.is_some_and(|e| !has_length || !(0.0..=1.0).contains(&e)) {
            return Err(Fault::Range(format!("even of step {at}")));
        }
        let from = self.from;
        let time = |n: &Num| {
            let us = from.number(n)?;
            if (0.0..1e9).contains(&us) {
                Ok(ns(us))
            } else {
                Err(Fault::Range(format!("time of step {at}")))
            }
        };
        let blocks = s.sleep_us.is_some()
            || s.put.is_some()
            || s.get.is_some()
            || s.tlb.is_some()
            || s.feign_us.is_some()
            || s.receive.is_some();
        if atomic && blocks {
            return Err(Fault::Atomic(at));
        }
        if let Some(us) = &s.user_us {
            ops.push(Op::User(time(us)?, s.even));
        } else if let Some(us) = &s.kernel_us {
            ops.push(Op::Kernel(time(us)?));
        } else if let Some(name) = &s.lock {
            let group = self
                .names
                .iter()
                .position(|n| *n == name)
                .ok_or_else(|| Fault::Unknown(at, "lock", name.clone()))?;
            let l = &self.from.locks[name];
            if depth >= MAX_HELD {
                return Err(Fault::Depth(at));
            }
            let spins = l.kind.is_atomic();
            if atomic && !spins {
                return Err(Fault::Atomic(at));
            }
            ops.push(Op::Acquire { first: self.first[group], count: l.count, group: group as u8 });
            ops.push(Op::Hold(time(&l.hold_us)?));
            self.steps(&s.inside, ops, depth + 1, atomic || spins)?;
            ops.push(Op::Release);
        } else if let Some(n) = s.tlb {
            ops.push(Op::Shoot(n));
        } else if let Some(us) = &s.sleep_us {
            ops.push(Op::Sleep(time(us)?, s.even));
        } else if let Some(q) = s.put.as_ref().or(s.get.as_ref()) {
            let i = self
                .queues
                .iter()
                .position(|n| *n == q)
                .ok_or_else(|| Fault::Unknown(at, "queue", q.clone()))?;
            ops.push(if s.put.is_some() { Op::Put(i as u8) } else { Op::Get(i as u8) });
        } else if let Some(n) = s.done {
            ops.push(Op::Done(n));
        } else if let Some(us) = &s.feign_us {
            ops.push(Op::Feign(time(us)?));
        } else if let Some(us) = &s.receive {
            ops.push(Op::Receive(time(us)?));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Program, Fault> {
        serde_yaml::from_str::<Workload>(text).unwrap().compile()
    }

    #[test]
    fn steps_become_operations() {
        let p = read(
            "about: x\nlocks: {a: {hold_us: 1, count: 3}, page: {hold_us: 2, kind: mutex, seen: 1}}\n\
             roles: [{threads: 2, steps: [{user_us: 5}, {lock: page, p: 0.5, inside: [{tlb: 0}]}, {done: 1}]}]",
        )
        .unwrap();
        let acquire = Op::Acquire { first: 3, count: 1, group: 1 };
        let want = vec![
            Op::User(5_000, None),
            Op::Maybe(1 << 31, 4),
            acquire,
            Op::Hold(2_000),
            Op::Shoot(0),
            Op::Release,
            Op::Done(1),
        ];
        assert_eq!(p.roles, vec![(2, want)]);
        assert_eq!(p.locks, 4);
    }

    #[test]
    fn what_would_hang_or_lie_is_refused() {
        let bad = [
            "about: x\nroles: [{threads: 1, steps: [{user_us: 5, tlb: 0}]}]",
            "about: x\nroles: [{threads: 1, steps: [{done: 1}]}]",
            "about: x\nroles: [{threads: 1, steps: [{user_us: 1}, {lock: a}]}]",
            "about: x\nlocks: {a: {hold_us: 1}}\nroles: [{threads: 1, steps: [{user_us: 1}, {lock: a, inside: [{tlb: 0}]}]}]",
            "about: x\nroles: [{threads: 1, steps: [{user_us: 5, p: 2}]}]",
            "about: x\nroles: [{threads: 1, steps: [{user_us: work}]}]",
            "about: x\nroles: [{threads: 1, steps: [{kernel_us: 5, even: 0.5}]}]",
            "about: x\nroles: [{threads: 1, steps: [{user_us: 5, even: 2}]}]",
        ];
        for text in bad {
            assert!(read(text).is_err(), "{text}");
        }
    }
}

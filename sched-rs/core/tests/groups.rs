// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several pools side by side: units move between them, wait for each other across them, and share caps.
mod common;

use common::Machine;
use microslice_core::cap::PERIOD;
use microslice_core::pool::{Decision, Event, Pool, Refusal};
use microslice_core::state::{NIL, NO_CPU, Place};
use microslice_core::{Action, Class, Policy, Record, Siblings};
use proptest::prelude::*;

const MS: u64 = 1_000_000;

/// Machines of equal pCPUs that know the same domains; each unit is in one of them.
struct Groups {
    of: Vec<Machine>,
    /// Units of each domain.
    units: Vec<u16>,
}

impl Groups {
    fn new(groups: usize, cpus: u8, units: usize, doms: u16) -> Self {
        let mut of: Vec<Machine> =
            (0..groups).map(|_| Machine::new(cpus, units, usize::from(doms))).collect();
        for m in &mut of {
            // A part of a cap that leaves is paid back afterwards.
            m.punctual = false;
            (0..doms).for_each(|dom| m.domain(dom, 256, 0));
        }
        Self { of, units: vec![0; usize::from(doms)] }
    }

    fn home(&self, unit: u16) -> usize {
        let there = |m: &Machine| m.units[usize::from(unit)].place != Place::Absent;
        let homes: Vec<usize> = (0..self.of.len()).filter(|g| there(&self.of[*g])).collect();
        assert_eq!(homes.len(), 1, "unit {unit} is in groups {homes:?}");
        homes[0]
    }

    fn add(&mut self, group: usize, unit: u16, dom: u16) {
        self.of[group].unit(unit, dom, !0);
        self.units[usize::from(dom)] += 1;
        (0..self.of.len()).for_each(|g| self.tell(g, dom));
    }

    /// How many units of a domain are elsewhere.
    fn tell(&mut self, group: usize, dom: u16) {
        let m = &mut self.of[group];
        let units = self.units[usize::from(dom)] - m.doms[usize::from(dom)].units;
        assert_eq!(m.send(Event::DomElsewhere { dom, units }).refused(), None);
    }

    fn everywhere(&mut self, event: Event) {
        self.of.iter_mut().for_each(|m| assert_eq!(m.send(event).refused(), None));
    }

    /// Moves a unit that waits or sleeps, as Xen does with both locks.
    fn migrate(&mut self, unit: u16, to: usize) -> bool {
        let (from, i) = (self.home(unit), usize::from(unit));
        let u = self.of[from].units[i];
        if from == to || !matches!(u.place, Place::Queued | Place::Asleep) {
            return false;
        }
        let m = &mut self.of[from];
        let ahead = look(m, |p| p.ahead(unit));
        let exact = i128::from(u.vtime) - i128::from(m.shared.vclock);
        assert!((exact - i128::from(ahead) * 1_000_000).abs() <= 500_000 || ahead.abs() == i16::MAX);
        assert_eq!(m.send(Event::UnitRemove { unit }).refused(), None);
        let (awake, class) = (m.runnable[i], m.class[i]);
        m.runnable[i] = false;
        self.tell(from, u.dom);
        let m = &mut self.of[to];
        let add = Event::UnitAdd { unit, dom: u.dom, hard: !0, soft: !0, ahead };
        assert_eq!(m.send(add).refused(), None);
        m.class[i] = class;
        self.tell(to, u.dom);
        if awake {
            self.of[to].wake(unit);
        }
        true
    }

    /// A yield as Xen does it: the other groups first.
    fn yields(&mut self, group: usize, unit: u16, class: Class) -> Decision {
        let dom = self.of[group].units[usize::from(unit)].dom;
        let mut far = Siblings::NONE;
        for g in (0..self.of.len()).filter(|g| *g != group) {
            let d = self.of[g].send(Event::Awaited { dom, class });
            far.helped |= d.kept;
            far.left |= d.left;
        }
        self.of[group].send(Event::Yield { unit, class, far })
    }

    fn advance(&mut self, ns: u64) {
        self.of.iter_mut().for_each(|m| m.advance(ns));
    }

    fn ran(&self, dom: u16) -> u64 {
        self.of.iter().map(|m| m.dom_ran[usize::from(dom)]).sum()
    }
}

fn look<R>(m: &mut Machine, f: impl FnOnce(&Pool<'_>) -> R) -> R {
    f(&Pool { shared: &mut m.shared, units: &mut m.units, doms: &mut m.doms })
}

#[derive(Clone, Debug)]
enum Op {
    Wake(u16),
    Sleep(u16),
    Kick(u16),
    Move(u16, usize),
    Yield(usize, u8, u32),
    Class(u16, u32),
    Policy(u16, bool),
    Weight(u16, u32),
    Cap(u16, u32),
    Micro(u32),
    Advance(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..48u16).prop_map(Op::Wake),
        3 => (0..48u16).prop_map(Op::Sleep),
        2 => (0..48u16).prop_map(Op::Kick),
        8 => (0..48u16, 0..4usize).prop_map(|(u, g)| Op::Move(u, g)),
        5 => (0..4usize, 0..4u8, 1..4u32).prop_map(|(g, c, k)| Op::Yield(g, c, k)),
        3 => (0..48u16, 0..11u32).prop_map(|(u, c)| Op::Class(u, c)),
        1 => (0..6u16, any::<bool>()).prop_map(|(d, b)| Op::Policy(d, b)),
        1 => (0..6u16, 1..1_000u32).prop_map(|(d, w)| Op::Weight(d, w)),
        2 => (0..6u16, prop_oneof![Just(0), 1..300u32]).prop_map(|(d, c)| Op::Cap(d, c)),
        1 => (0..4u32).prop_map(Op::Micro),
        8 => (0..20 * MS).prop_map(Op::Advance),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The machine of `common` checks the invariants of each group after each event.
    #[test]
    fn invariants_hold_while_units_move(
        (groups, cpus) in (2..=4usize, 1..=4u8),
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let mut g = Groups::new(groups, cpus, 48, 6);
        (0..48u16).for_each(|u| g.add(usize::from(u) % groups, u, u % 6));
        for op in ops {
            match op {
                Op::Wake(u) => { let h = g.home(u); g.of[h].wake(u) }
                Op::Sleep(u) => { let h = g.home(u); g.of[h].sleep(u) }
                Op::Kick(u) => { let h = g.home(u); g.of[h].kick(u) }
                Op::Move(u, to) => { g.migrate(u, to % groups); }
                Op::Yield(at, cpu, class) => {
                    let (at, cpu) = (at % groups, cpu % cpus);
                    let unit = g.of[at].current(cpu);
                    if unit != NIL {
                        g.yields(at, unit, Class::from_abi(class).unwrap());
                        g.of[at].pending |= 1 << cpu;
                    }
                }
                Op::Class(u, c) => {
                    let h = g.home(u);
                    g.of[h].class[usize::from(u)] = Class::from_abi(c).unwrap();
                }
                Op::Policy(dom, borrow) => {
                    let policy = if borrow { Policy::BORROW } else { Policy::PAPER };
                    g.everywhere(Event::DomPolicy { dom, policy });
                }
                Op::Weight(dom, weight) => {
                    let cap = g.of[0].doms[usize::from(dom)].cap;
                    g.everywhere(Event::DomSet { dom, weight, cap });
                }
                Op::Cap(dom, cap) => {
                    let weight = g.of[0].doms[usize::from(dom)].weight;
                    g.everywhere(Event::DomSet { dom, weight, cap });
                }
                Op::Micro(n) => g.of.iter_mut().for_each(|m| {
                    m.set(|p| p.nr_micro = n % u32::from(cpus));
                }),
                Op::Advance(ns) => g.advance(ns),
            }
            for m in &mut g.of {
                let able = |u: &&microslice_core::state::Unit| match u.place {
                    Place::Queued => u.mask != 0,
                    Place::Leaving => u.runnable,
                    place => place == Place::OnCpu,
                };
                let weight = |u: &microslice_core::state::Unit| u64::from(m.doms[usize::from(u.dom)].weight);
                let load: u64 = m.units.iter().filter(able).map(weight).sum();
                prop_assert_eq!(look(m, |p| p.load()), load);
                let next = look(m, |p| p.next_waiting(7));
                let waits = |u: &microslice_core::state::Unit| {
                    u.place == Place::Queued && u.mask != 0 && u.promised == NO_CPU
                };
                let first = (7..48u16).find(|u| waits(&m.units[usize::from(*u)])).unwrap_or(NIL);
                prop_assert_eq!(next, first);
            }
        }
        for u in 0..48u16 {
            g.home(u);
        }
    }

    /// Wherever its units go, a domain does not pass its cap by more than a period's budget for each group, in all.
    #[test]
    fn a_cap_is_one_cap_however_units_move(
        (groups, cpus, cap) in (2..=4usize, 1..=3u8, 1..250u32),
        steps in prop::collection::vec((0..8u16, 0..4usize, 0..15 * MS), 1..120),
    ) {
        let mut g = Groups::new(groups, cpus, 8, 1);
        (0..8u16).for_each(|u| g.add(usize::from(u) % groups, u, 0));
        g.everywhere(Event::DomSet { dom: 0, weight: 256, cap });
        for u in 0..8u16 {
            let h = g.home(u);
            g.of[h].wake(u);
        }
        let from = g.of[0].now;
        for (unit, to, ns) in steps {
            g.migrate(unit, to % groups);
            g.advance(ns);
        }
        g.of.iter_mut().for_each(|m| (0..cpus).for_each(|cpu| m.schedule(cpu)));
        let whole = PERIOD.0 / 100 * u64::from(cap);
        let periods = (g.of[0].now - from) / PERIOD.0 + 1;
        let most = whole * (periods + groups as u64);
        prop_assert!(g.ran(0) <= most, "ran {} ns in {periods} periods of {whole} ns", g.ran(0));
    }

    /// Each group is replayed on its own.
    #[test]
    fn records_of_a_group_replay_to_equal_decisions(ops in prop::collection::vec((0..16u16, 0..2usize, 0..5 * MS), 1..80)) {
        let mut g = Groups::new(2, 2, 16, 2);
        (0..16u16).for_each(|u| g.add(usize::from(u) % 2, u, u % 2));
        let before: Vec<_> = g.of.iter().map(|m| (m.shared.clone(), m.units.clone(), m.doms.clone())).collect();
        g.of.iter_mut().for_each(|m| m.records.clear());
        for (unit, to, ns) in ops {
            let h = g.home(unit);
            g.of[h].wake(unit);
            g.migrate(unit, to);
            g.advance(ns);
            let runs = g.of[0].current(0);
            if runs != NIL {
                g.yields(0, runs, Class::IpiWait);
            }
        }
        for (m, (mut shared, mut units, mut doms)) in g.of.iter().zip(before) {
            for r in &m.records {
                prop_assert_eq!(Record::from_bytes(&r.to_bytes()), *r);
                let (now, event) = r.event().expect("a record that was made says what happened");
                let mut d = Decision::NOTHING;
                let mut pool = Pool { shared: &mut shared, units: &mut units, doms: &mut doms };
                pool.handle(now, event, &mut d);
                prop_assert!(r.agrees(&d), "{:?} gave {:?} the second time", r, d);
            }
        }
    }
}

/// Two groups of two pCPUs: domain 0 has units 0 and 1 in the first and 2 and 3 in the second, where those wait
/// behind hogs of domain 1.
fn torn(policy: Policy) -> Groups {
    let mut g = Groups::new(2, 2, 10, 2);
    (0..4u16).for_each(|u| g.add(usize::from(u) / 2, u, 0));
    (4..8u16).for_each(|u| g.add(1, u, 1));
    g.everywhere(Event::DomPolicy { dom: 0, policy });
    for u in 0..8u16 {
        let h = g.home(u);
        g.of[h].wake(u);
    }
    g.advance(200 * MS);
    let waits = |g: &Groups| [2, 3].iter().all(|u: &usize| g.of[1].units[*u].place == Place::Queued);
    while !waits(&g) {
        g.advance(3 * MS);
    }
    g
}

#[test]
fn a_wait_reaches_siblings_in_another_group_at_once() {
    let mut g = torn(Policy::BORROW);
    let sender = g.of[0].current(0);
    let before = g.of[1].ran.clone();
    let d = g.yields(0, sender, Class::IpiWait);
    assert!(d.kept, "the yielder loses its pCPU although its siblings in the other group are being helped");
    assert_eq!(g.of[1].doms[0].counts.accel_ipi, 2);
    g.advance(3 * g.of[1].shared.params.micro_slice.0);
    g.of[1].settle();
    for u in [2, 3] {
        let ran = g.of[1].ran[u] - before[u];
        assert!(ran > 0, "sibling {u} in the other group did not run");
        assert!(ran <= 100_000, "sibling {u} ran {ran} ns, more than one micro slice");
    }
}

#[test]
fn who_waits_for_a_sibling_that_nobody_helps_elsewhere_gives_way() {
    let mut g = torn(Policy::PAPER);
    // No micro core anywhere: nobody is helped.
    let sender = g.of[0].current(0);
    assert!(!g.yields(0, sender, Class::IpiWait).kept);
    assert!(g.of[0].units[usize::from(sender)].yielding);
    // One in each group: help for those of the other group, none needed in its own.
    g.of.iter_mut().for_each(|m| assert_eq!(m.set(|p| p.nr_micro = 1).refused(), None));
    g.of.iter_mut().for_each(Machine::settle);
    let sender = g.of[0].current(0);
    assert!(g.yields(0, sender, Class::IpiWait).kept, "a pCPU is lost for a wait that is being served");
}

#[test]
fn a_wait_for_a_lock_reaches_only_those_inside_a_critical_service_elsewhere() {
    let mut g = torn(Policy::BORROW);
    (g.of[1].units[2].class, g.of[1].units[3].class) = (Class::LockHold, Class::LockWait);
    let sender = g.of[0].current(0);
    assert!(g.yields(0, sender, Class::LockWait).kept);
    assert_ne!(g.of[1].units[2].urgent, Action::None, "the lock holder in the other group is not helped");
    assert_eq!(g.of[1].units[3].urgent, Action::None, "one that only waits for a lock is helped");
}

#[test]
fn what_makes_no_sense_between_groups_is_refused() {
    let mut g = torn(Policy::BORROW);
    let m = &mut g.of[0];
    m.refuse(Event::Awaited { dom: 9, class: Class::IpiWait });
    m.refuse(Event::Awaited { dom: 0, class: Class::LockHold });
    m.refuse(Event::DomElsewhere { dom: 9, units: 1 });
    let mut params = m.shared.params;
    params.nr_micro = 2;
    assert_eq!(look(m, |p| p.check(&params)), Err(Refusal::Busy), "no normal core would be left");
    // Nobody has use for the micro cores of a group without pCPUs.
    let mut empty = Machine::new(0, 1, 1);
    assert_eq!(look(&mut empty, |p| p.check(&params)), Ok(()));
    assert_eq!(empty.send(Event::Set { params }).refused(), None);
}

#[test]
fn a_cap_is_used_up_by_hogs_in_two_groups() {
    let mut g = Groups::new(2, 2, 4, 1);
    (0..4u16).for_each(|u| g.add(usize::from(u == 3), u, 0));
    g.everywhere(Event::DomSet { dom: 0, weight: 256, cap: 100 });
    for u in 0..4u16 {
        let h = g.home(u);
        g.of[h].wake(u);
    }
    g.advance(1_000 * MS);
    let (near, far) = (g.of[0].dom_ran[0], g.of[1].dom_ran[0]);
    assert!(near.abs_diff(750 * MS) < 40 * MS, "three of four units ran {near} ns of a second at cap 100");
    assert!(far.abs_diff(250 * MS) < 20 * MS, "one of four units ran {far} ns of a second at cap 100");
}

#[test]
fn a_unit_keeps_its_lead_and_its_lag_when_it_moves() {
    let mut g = Groups::new(2, 1, 4, 1);
    (0..4u16).for_each(|u| g.add(usize::from(u) / 2, u, 0));
    for u in [0, 1, 2, 3] {
        let h = g.home(u);
        g.of[h].wake(u);
    }
    g.advance(95 * MS);
    let waits = (0..2u16).find(|u| g.of[0].units[usize::from(*u)].place == Place::Queued).unwrap();
    let before = g.of[0].units[usize::from(waits)].vtime as i64 - g.of[0].shared.vclock as i64;
    assert!(g.migrate(waits, 1));
    let after = g.of[1].units[usize::from(waits)].vtime as i64 - g.of[1].shared.vclock as i64;
    assert!((before - after).abs() <= 500_000, "{before} ns ahead there, {after} ns here");
}

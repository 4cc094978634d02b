// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the core promises, on random machines and on small ones whose outcome can be stated.
mod common;

use common::Machine;
use microslice_core::pool::{Decision, Event, Offer, Pool, Refusal};
use microslice_core::state::{NIL, Place, Work};
use microslice_core::{Action, Class, Params, Policy, Record, Siblings, Span, Time};
use proptest::prelude::*;

const MS: u64 = 1_000_000;

/// What can happen. Units, domains and pCPUs are counted modulo as many as the machine has.
#[derive(Clone, Debug)]
enum Op {
    Wake(u16),
    Sleep(u16),
    Yield(u8, u32),
    Kick(u16),
    Affinity(u16, u64, u64),
    Class(u16, u32),
    Micro(u32, u32, u32, u32),
    Lengths(u64, u64, u64, u64),
    Policy(u16, [u32; 4]),
    Weight(u16, u32),
    Cap(u16, u32),
    Online(u8),
    Replug(u8),
    Advance(u64),
    Schedule(u8),
    Settle,
    Readd(u16, u64),
    Redomain(u16),
    Refuse(u8),
    Saved(u16),
    Block(u8),
    WakeLeaving,
    Timer,
}

fn op() -> impl Strategy<Value = Op> {
    let unit = 0..512u16;
    let dom = 0..24u16;
    // Dense, sparse and single-pCPU affinities.
    let mask = prop_oneof![2 => any::<u64>(), 1 => Just(!0), 1 => (0..64u32).prop_map(|c| 1 << c)];
    prop_oneof![
        8 => unit.clone().prop_map(Op::Wake),
        4 => unit.clone().prop_map(Op::Sleep),
        6 => (0..64u8, 0..11u32).prop_map(|(c, k)| Op::Yield(c, k)),
        4 => unit.clone().prop_map(Op::Kick),
        2 => (unit.clone(), mask.clone(), any::<u64>()).prop_map(|(u, h, s)| Op::Affinity(u, h, s)),
        4 => (unit.clone(), 0..11u32).prop_map(|(u, c)| Op::Class(u, c)),
        1 => (0..64u32, 0..2u32, 0..3u32, 0..4u32).prop_map(|(n, r, s, l)| Op::Micro(n, r, s, l)),
        1 => (1_000..1_000_000u64, 50..100_000u64, 0..500_000u64, 10..10_000u64)
            .prop_map(|(s, m, r, g)| Op::Lengths(s, m.min(s), r, g.min(s))),
        2 => (dom.clone(), [0..5u32, 0..5u32, 0..5u32, 0..5u32]).prop_map(|(d, p)| Op::Policy(d, p)),
        1 => (dom.clone(), prop_oneof![0..1000u32, 1..=65_535u32]).prop_map(|(d, w)| Op::Weight(d, w)),
        1 => (dom.clone(), prop_oneof![Just(0), 1..300u32]).prop_map(|(d, c)| Op::Cap(d, c)),
        1 => (0..64u8).prop_map(Op::Online),
        1 => (0..64u8).prop_map(Op::Replug),
        8 => (0..40 * MS).prop_map(Op::Advance),
        4 => (0..64u8).prop_map(Op::Schedule),
        8 => Just(Op::Settle),
        1 => (unit, mask).prop_map(|(u, h)| Op::Readd(u, h)),
        1 => dom.prop_map(Op::Redomain),
        1 => any::<u8>().prop_map(Op::Refuse),
        1 => (0..512u16).prop_map(Op::Saved),
        2 => (0..64u8).prop_map(Op::Block),
        2 => Just(Op::WakeLeaving),
        1 => Just(Op::Timer),
    ]
}

/// Events that nothing and nobody may be changed by.
fn hopeless(m: &Machine, n: u8) -> Event {
    let (unit, dom) = (m.units.len() as u16, m.doms.len() as u16);
    let all = [
        Event::CpuUp { cpu: 64, number: 64 },
        Event::CpuDown { cpu: 255 },
        Event::DomAdd { dom: 0 },
        Event::DomAdd { dom },
        Event::DomRemove { dom: 0 },
        Event::DomSet { dom: 0, weight: 0, cap: 0 },
        Event::DomSet { dom: 0, weight: 256, cap: 6_401 },
        Event::DomSet { dom, weight: 256, cap: 0 },
        Event::DomPolicy { dom: 0, policy: Policy { event: Action::Grace, ..Policy::NONE } },
        Event::UnitAdd { unit: 0, dom: 0, hard: 1, soft: 1, ahead: 0 },
        Event::UnitAdd { unit, dom: 0, hard: 1, soft: 1, ahead: 0 },
        Event::UnitRemove { unit },
        Event::Affinity { unit, hard: 1, soft: 1 },
        Event::Wake { unit: NIL, saved: true },
        Event::Sleep { unit },
        Event::Yield { unit, class: Class::IpiWait, far: Siblings::NONE },
        Event::Kick { unit },
        Event::Schedule { cpu: 64, offer: Offer::Run, runnable: true, class: Class::None },
        Event::Saved { unit },
        Event::Set { params: Params { sizing: 3, ..m.shared.params } },
    ];
    all[usize::from(n) % all.len()]
}

fn apply(m: &mut Machine, op: &Op, cpus: u8) {
    let unit = |u: u16| u % m.units.len() as u16;
    let dom = |d: u16| d % m.doms.len() as u16;
    match *op {
        Op::Wake(u) => m.wake(unit(u)),
        Op::Sleep(u) => m.sleep(unit(u)),
        Op::Yield(cpu, class) => {
            let unit = m.current(cpu % cpus);
            if unit != NIL {
                m.send(Event::Yield { unit, class: Class::from_abi(class).unwrap(), far: Siblings::NONE });
                m.pending |= 1 << (cpu % cpus);
            }
        }
        Op::Kick(u) => m.kick(unit(u)),
        Op::Affinity(u, hard, soft) => drop(m.send(Event::Affinity { unit: unit(u), hard, soft })),
        Op::Class(u, c) => {
            let u = usize::from(unit(u));
            m.class[u] = Class::from_abi(c).unwrap();
        }
        Op::Micro(n, reserve, sizing, least) => drop(m.set(|p| {
            // Often all but one.
            let n = n.min(u32::from(cpus) - 1);
            (p.nr_micro, p.reserve, p.sizing, p.max_micro) = (n, reserve, sizing, n);
            p.min_micro = least.min(p.max_micro);
        })),
        Op::Lengths(slice, micro, ratelimit, grace) => drop(m.set(|p| {
            (p.slice, p.micro_slice) = (Span(slice * 1_000), Span(micro * 1_000));
            (p.ratelimit, p.grace) = (Span(ratelimit * 1_000), Span(grace * 1_000));
        })),
        Op::Policy(d, row) => {
            let row = row.into_iter().rev().fold(0, |n, a| n << 8 | a);
            let d = dom(d);
            if let Some(policy) = Policy::from_abi(row) {
                m.policy(d, policy);
            }
        }
        Op::Weight(d, weight) => {
            let dom = dom(d);
            let cap = m.doms[usize::from(dom)].cap;
            m.send(Event::DomSet { dom, weight, cap });
        }
        Op::Cap(d, cap) => {
            let dom = dom(d);
            let weight = m.doms[usize::from(dom)].weight;
            m.send(Event::DomSet { dom, weight, cap });
        }
        Op::Online(cpu) => {
            let bit = 1 << (cpu % cpus);
            if m.online != bit {
                m.online ^= bit;
                m.pending |= bit;
            }
        }
        Op::Replug(cpu) => m.replug(cpu % cpus),
        Op::Advance(ns) => m.advance(ns),
        Op::Schedule(cpu) => m.schedule(cpu % cpus),
        Op::Settle => m.settle(),
        Op::Readd(u, hard) => {
            let u = unit(u);
            let dom = m.units[usize::from(u)].dom;
            m.remove(u);
            m.unit(u, dom, hard);
        }
        Op::Redomain(d) => {
            let d = dom(d);
            let of_it: Vec<u16> =
                (0..m.units.len() as u16).filter(|u| m.units[usize::from(*u)].dom == d).collect();
            of_it.iter().for_each(|u| m.remove(*u));
            assert_eq!(m.send(Event::DomRemove { dom: d }).refused(), None);
            m.dom_ran[usize::from(d)] = 0;
            m.domain(d, 100 + u32::from(d), 0);
            of_it.iter().for_each(|u| m.unit(*u, d, !0));
        }
        Op::Refuse(n) => m.refuse(hopeless(m, n)),
        Op::Saved(u) => {
            let unit = unit(u);
            if m.units[usize::from(unit)].place != Place::Leaving {
                m.spurious_save(unit);
            }
        }
        Op::Block(cpu) => {
            let (cpu, unit) = (cpu % cpus, m.current(cpu % cpus));
            if unit != NIL {
                m.sleep(unit);
                m.schedule(cpu);
            }
        }
        Op::WakeLeaving => {
            if let Some(unit) = m.leaving.last().copied() {
                m.wake(unit);
            }
        }
        Op::Timer => drop(m.send(Event::Timer)),
    }
}

/// Few units or many: 1 to 512, each size class as often.
fn units() -> impl Strategy<Value = u16> {
    prop_oneof![4 => 1..=16u16, 3 => 17..=64u16, 2 => 65..=200u16, 1 => 201..=512u16]
}

fn random_machine(cpus: u8, units: u16, doms: u16, masks: &[u64]) -> Machine {
    let mut m = Machine::new(cpus, usize::from(units), usize::from(doms));
    for dom in 0..doms {
        m.domain(dom, 128 << (dom % 3), 0);
    }
    for unit in 0..units {
        let hard = masks.get(usize::from(unit) % 8).copied().unwrap_or(!0);
        m.unit(unit, unit % doms, hard);
        if unit % 3 != 0 {
            m.wake(unit);
        }
    }
    m
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, ..ProptestConfig::default() })]

    /// The machine of `common` checks the invariants after each of these events.
    #[test]
    fn invariants_hold_on_random_machines(
        (cpus, units, doms) in (1..=64u8, units(), 1..=24u16),
        masks in prop::collection::vec(any::<u64>(), 0..8),
        ops in prop::collection::vec(op(), 1..250),
    ) {
        let mut m = random_machine(cpus, units, doms, &masks);
        for op in &ops {
            apply(&mut m, op, cpus);
        }
        m.settle();
    }

    /// A pool's own numbers of its pCPUs say nothing about which of them are micro cores.
    #[test]
    fn micro_cores_have_the_highest_numbers_on_the_host(
        numbers in Just((100..164u16).collect::<Vec<_>>()).prop_shuffle(),
        cpus in 2..=64usize,
        want in 0..64u32,
        leaves in 0..64usize,
    ) {
        let mut m = Machine::new(0, 1, 1);
        let mut here: Vec<(u16, usize)> = numbers.iter().copied().zip(0..).take(cpus).collect();
        for &(number, cpu) in &here {
            m.send(Event::CpuUp { cpu: cpu as u8, number });
        }
        let want = want % cpus as u32;
        prop_assert_eq!(m.set(|p| p.nr_micro = want).refused(), None);
        here.sort_unstable();
        let highest = |here: &[(u16, usize)]| {
            let n = (want as usize).min(here.len() - 1);
            here.iter().rev().take(n).fold(0u64, |mask, (_, cpu)| mask | 1 << cpu)
        };
        prop_assert_eq!(m.shared.micro, highest(&here));
        let (_, gone) = here.remove(leaves % cpus);
        m.send(Event::CpuDown { cpu: gone as u8 });
        prop_assert_eq!(m.shared.micro, highest(&here));
        // Somebody else gets its place in the masks.
        here.insert(0, (7, gone));
        m.send(Event::CpuUp { cpu: gone as u8, number: 7 });
        prop_assert_eq!(m.shared.micro, highest(&here));
    }

    /// The records of a run, given to a copy of the pool as it was at some moment, give the same decisions and state.
    #[test]
    fn records_replay_to_equal_decisions(
        before in prop::collection::vec(op(), 0..100),
        ops in prop::collection::vec(op(), 1..200),
    ) {
        // What the C interface refuses before it is an event has no record.
        let ops: Vec<Op> = ops.into_iter().filter(|op| !matches!(op, Op::Refuse(_))).collect();
        let mut m = Machine::new(4, 48, 6);
        (0..6).for_each(|d| m.domain(d, 256, 0));
        (0..48).for_each(|u| m.unit(u, u % 6, !0));
        before.iter().for_each(|op| apply(&mut m, op, 4));
        let (mut shared, mut units, mut doms) = (m.shared.clone(), m.units.clone(), m.doms.clone());
        m.records.clear();
        ops.iter().for_each(|op| apply(&mut m, op, 4));
        for r in &m.records {
            prop_assert_eq!(Record::from_bytes(&r.to_bytes()), *r);
            let (now, event) = r.event().expect("a record that was made says what happened");
            let mut d = Decision::NOTHING;
            let mut pool = Pool { shared: &mut shared, units: &mut units, doms: &mut doms };
            pool.handle(now, event, &mut d);
            prop_assert!(r.agrees(&d), "{:?} gave {:?} the second time", r, d);
        }
        prop_assert_eq!(format!("{units:?}{doms:?}{shared:?}"), format!("{:?}{:?}{:?}", m.units, m.doms, m.shared));
    }
}

/// `n` hogs of domain `d`, one per unit, all awake.
fn hogs(m: &mut Machine, first: u16, n: u16, dom: u16) {
    for unit in first..first + n {
        m.unit(unit, dom, !0);
        m.wake(unit);
    }
}

#[test]
fn hogs_share_by_weight_within_a_percent() {
    let mut m = Machine::new(4, 32, 3);
    for (dom, weight) in [(0, 128), (1, 256), (2, 512)] {
        m.domain(dom, weight, 0);
        hogs(&mut m, dom * 8, 8, dom);
    }
    m.advance(30_000 * MS);
    let share = |d: u16| m.ran[usize::from(d) * 8..][..8].iter().sum::<u64>() as f64 / (4.0 * m.now as f64);
    for (dom, want) in [(0, 1.0 / 7.0), (1, 2.0 / 7.0), (2, 4.0 / 7.0)] {
        let got = share(dom);
        assert!((got - want).abs() < 0.01, "domain {dom} got {got:.3} of the machine, not {want:.3}");
    }
}

#[test]
fn a_capped_domain_gets_its_cap_and_not_more() {
    let mut m = Machine::new(4, 16, 2);
    m.domain(0, 256, 50);
    m.domain(1, 256, 0);
    hogs(&mut m, 0, 4, 0);
    m.advance(1_000 * MS);
    let ran: u64 = m.ran[..4].iter().sum();
    assert!(ran <= 505 * MS, "a domain with cap 50 ran {ran} ns in a second");
    assert!(ran >= 450 * MS, "a domain with cap 50 ran only {ran} ns in a second");
}

#[test]
fn who_waited_at_its_cap_comes_back_with_a_slice_of_lag_at_most() {
    let mut m = Machine::new(2, 28, 2);
    m.domain(0, 256, 1);
    m.domain(1, 256, 0);
    // A cap that lets one of them run in each period.
    hogs(&mut m, 0, 24, 0);
    hogs(&mut m, 24, 4, 1);
    m.advance(495 * MS);
    assert!(waiting(&m, 0..24).len() > 20, "the cap keeps nobody waiting");
    m.send(Event::DomSet { dom: 0, weight: 256, cap: 0 });
    let lags =
        waiting(&m, 0..24).into_iter().map(|u| m.shared.vclock.saturating_sub(m.units[usize::from(u)].vtime));
    let most = lags.max().unwrap_or(0);
    assert!(most <= m.shared.params.slice.0, "the end of its cap gives a unit {most} ns of lag");
}

#[test]
fn who_overruns_its_cap_pays_it_back() {
    let mut m = Machine::new(1, 1, 1);
    m.domain(0, 256, 50);
    hogs(&mut m, 0, 1, 0);
    m.settle();
    m.punctual = false;
    let from = m.now;
    for _ in 0..500 {
        // Nothing is served in time.
        m.now += 4 * MS;
        m.send(Event::Timer);
        m.pending = 1;
        m.settle();
    }
    let (ran, time) = (m.ran[0], m.now - from);
    assert!(ran <= time / 2 + 8 * MS, "a domain with cap 50 ran {ran} ns in {time} ns");
    assert!(ran >= time / 3, "a domain with cap 50 ran only {ran} ns in {time} ns");
}

#[test]
fn who_wakes_before_its_context_is_saved_runs_only_after_that() {
    let mut m = Machine::new(2, 2, 1);
    m.domain(0, 256, 0);
    hogs(&mut m, 0, 1, 0);
    m.settle();
    let cpu = m.units[0].cpu;
    m.sleep(0);
    m.schedule(cpu);
    m.wake(0);
    assert_eq!(m.units[0].place, Place::Leaving, "its registers are still on pCPU {cpu}");
    m.schedule(1 - cpu);
    m.schedule(cpu);
    assert_eq!((m.current(0), m.current(1)), (NIL, NIL));
    m.settle();
    assert_eq!(m.units[0].place, Place::OnCpu, "its wake-up is lost");
}

#[test]
fn a_save_of_who_does_not_leave_changes_nothing() {
    let mut m = Machine::new(1, 3, 1);
    m.domain(0, 256, 0);
    hogs(&mut m, 0, 2, 0);
    m.unit(2, 0, !0);
    m.settle();
    let places = [0, 1, 2].map(|u| m.units[u].place);
    assert!(places.contains(&Place::OnCpu) && places.contains(&Place::Queued) && places[2] == Place::Asleep);
    (0..3).for_each(|unit| m.spurious_save(unit));
}

#[test]
fn a_waking_unit_preempts_one_that_is_ahead_which_then_resumes() {
    let mut m = Machine::new(1, 4, 2);
    m.domain(0, 256, 0);
    m.domain(1, 256, 0);
    m.unit(2, 1, !0);
    hogs(&mut m, 0, 2, 0);
    m.advance(70 * MS);
    m.advance(5 * MS);
    let hog = m.current(0);
    m.wake(2);
    m.settle();
    assert_eq!(m.current(0), 2, "the waking unit waits although a hog is far ahead");
    m.advance(MS);
    m.sleep(2);
    m.settle();
    assert_eq!(m.current(0), hog, "the interrupted hog did not resume");
    assert!(m.shared.cpus[0].ends.since(Time(m.now)).0 < 26 * MS, "it got a whole new slice");
}

/// Two domains of four hogs on four pCPUs, `micro` of them micro cores.
fn consolidated(micro: u32) -> Machine {
    let mut m = Machine::new(4, 8, 2);
    m.domain(0, 256, 0);
    m.domain(1, 256, 0);
    m.set(|p| (p.nr_micro, p.reserve) = (micro, 1));
    hogs(&mut m, 0, 4, 0);
    hogs(&mut m, 4, 4, 1);
    m.advance(95 * MS);
    m
}

fn running_normal(m: &Machine, dom: u16) -> Option<u16> {
    let cpus = m.shared.cpus.iter().filter(|c| c.work == Work::Normal);
    cpus.map(|c| c.unit).find(|u| m.units[usize::from(*u)].dom == dom)
}

#[test]
fn a_yield_in_an_ipi_wait_runs_all_preempted_siblings_and_keeps_the_yielder() {
    let mut m = consolidated(1);
    let sender = running_normal(&m, 0).expect("a unit of domain 0 runs");
    let preempted: Vec<u16> = (0..4).filter(|u| m.units[usize::from(*u)].place == Place::Queued).collect();
    assert!(!preempted.is_empty());
    let d = m.send(Event::Yield { unit: sender, class: Class::IpiWait, far: Siblings::NONE });
    assert!(d.kept, "the yielder loses its pCPU although its siblings are being accelerated");
    let before = m.ran.clone();
    m.advance(m.shared.params.micro_slice.0 * (preempted.len() as u64 + 1));
    for u in preempted {
        let ran = m.ran[usize::from(u)] - before[usize::from(u)];
        assert!(ran > 0, "preempted sibling {u} did not run");
        assert!(ran <= 100_000, "sibling {u} ran {ran} ns, more than one micro slice");
    }
    assert_eq!(m.shared.cpus[3].unit, NIL, "the micro core is not free again");
    assert_eq!(m.doms[0].counts.yields_ipi, 1);
}

#[test]
fn a_yield_in_a_lock_wait_runs_only_siblings_inside_a_critical_service() {
    let mut m = Machine::new(4, 12, 2);
    m.domain(0, 256, 0);
    m.domain(1, 256, 0);
    m.set(|p| (p.nr_micro, p.reserve) = (1, 1));
    m.class[1] = Class::LockHold;
    m.class[2] = Class::LockWait;
    hogs(&mut m, 0, 4, 0);
    hogs(&mut m, 4, 8, 1);
    for _ in 0..200 {
        m.advance(30 * MS);
        let Some(spinner) = running_normal(&m, 0) else { continue };
        let waits = |u: u16| m.units[usize::from(u)].place == Place::Queued;
        if spinner == 1 || !waits(1) || !waits(2) {
            continue;
        }
        m.send(Event::Yield { unit: spinner, class: Class::LockWait, far: Siblings::NONE });
        assert_ne!(m.units[1].urgent, Action::None, "the preempted lock holder is not urgent");
        assert_eq!(m.units[2].urgent, Action::None, "a sibling that only waits for a lock is urgent");
        return;
    }
    panic!("the situation never came up");
}

#[test]
fn an_event_makes_its_preempted_recipient_urgent_and_no_other() {
    let mut m = consolidated(1);
    let to = (0..4u16).find(|u| m.units[usize::from(*u)].place == Place::Queued).unwrap();
    m.send(Event::Kick { unit: to });
    m.settle();
    assert_eq!(m.shared.cpus[3].unit, to, "the recipient does not run on the micro core");
    assert_eq!(m.doms[0].counts.accel_irq, 1);
    let runs = running_normal(&m, 0).unwrap();
    m.send(Event::Kick { unit: runs });
    assert_eq!(m.doms[0].counts.kicks_preempted, 1, "a running unit needs no help");
}

#[test]
fn without_micro_cores_nothing_is_urgent_and_a_yield_is_a_yield() {
    let mut m = consolidated(0);
    while running_normal(&m, 0).is_none() {
        m.advance(15 * MS);
    }
    let sender = running_normal(&m, 0).unwrap();
    let cpu = m.units[usize::from(sender)].cpu;
    let d = m.send(Event::Yield { unit: sender, class: Class::IpiWait, far: Siblings::NONE });
    assert!(!d.kept);
    m.schedule(cpu);
    assert_ne!(m.current(cpu), sender, "nobody else got the pCPU");
}

#[test]
fn feigned_urgency_gains_no_share() {
    let mut m = consolidated(1);
    let start = m.ran.clone();
    let from = m.now;
    // Domain 0 asks for urgency all the time, domain 1 never. The micro core is domain 0's alone.
    while m.now < from + 10_000 * MS {
        for unit in 0..4 {
            m.send(Event::Kick { unit });
        }
        m.advance(MS / 2);
    }
    let got = |r: std::ops::Range<usize>| r.map(|u| m.ran[u] - start[u]).sum::<u64>() as f64;
    let (faker, honest) = (got(0..4), got(4..8));
    let share = faker / (faker + honest);
    assert!(share < 0.51, "the faker got {share:.3} of what was run, not half");
}

#[test]
fn a_unit_pinned_to_a_micro_core_still_runs_and_gives_way() {
    let mut m = consolidated(1);
    m.sleep(7);
    m.settle();
    m.send(Event::Affinity { unit: 7, hard: 1 << 3, soft: !0 });
    m.wake(7);
    m.settle();
    assert_eq!(m.shared.cpus[3].unit, 7);
    let to = (0..4u16).find(|u| m.units[usize::from(*u)].place == Place::Queued).unwrap();
    m.send(Event::Kick { unit: to });
    m.settle();
    assert_eq!(m.shared.cpus[3].unit, to, "normal work on a micro core did not give way");
    m.advance(MS);
    assert_eq!(m.shared.cpus[3].unit, 7, "it did not come back");
}

#[test]
fn settings_out_of_range_or_without_a_normal_core_change_nothing() {
    let mut m = Machine::new(4, 1, 1);
    let before = m.shared.params;
    assert_eq!(m.set(|p| p.nr_micro = 4).refused(), Some(Refusal::Busy));
    assert_eq!(m.set(|p| p.slice.0 = 999_999).refused(), Some(Refusal::Range));
    assert_eq!(m.set(|p| p.micro_slice.0 = 49_999).refused(), Some(Refusal::Range));
    assert_eq!(m.set(|p| p.micro_slice.0 = p.slice.0 + 1).refused(), Some(Refusal::Range));
    assert_eq!(m.set(|p| p.ratelimit.0 = 500_000_001).refused(), Some(Refusal::Range));
    assert_eq!(m.shared.params, before);
    assert_eq!(m.set(|p| p.nr_micro = 3).refused(), None);
    assert_eq!(m.shared.micro, 0b1110);
}

#[test]
fn micro_cores_do_not_take_the_last_normal_core_of_a_pinned_unit() {
    let mut m = consolidated(0);
    m.send(Event::Affinity { unit: 7, hard: 1 << 2, soft: !0 });
    m.settle();
    assert_eq!(m.set(|p| p.nr_micro = 2).refused(), Some(Refusal::Busy));
    assert_eq!((m.shared.micro, m.shared.params.nr_micro), (0, 0), "a refused resize changed something");
    assert_eq!(m.set(|p| p.nr_micro = 1).refused(), None);
}

#[test]
fn who_is_more_than_two_slices_ahead_is_not_made_urgent() {
    let mut m = Machine::new(1, 3, 2);
    m.domain(0, 32, 0);
    m.domain(1, 256, 0);
    m.policy(0, Policy::BORROW);
    hogs(&mut m, 0, 1, 0);
    m.advance(100 * MS);
    hogs(&mut m, 1, 2, 1);
    m.advance(5 * MS);
    let ahead = m.units[0].vtime - m.shared.vclock;
    assert!(m.units[0].place == Place::Queued && ahead > 2 * m.shared.params.slice.0);
    m.kick(0);
    assert_eq!((m.units[0].urgent, m.doms[0].counts.refused_limit), (Action::None, 1));
}

#[test]
fn virtual_time_is_exact_however_often_it_is_taken() {
    let mut m = Machine::new(1, 1, 1);
    m.domain(0, 300, 0);
    hogs(&mut m, 0, 1, 0);
    m.settle();
    let from = m.units[0].vtime;
    for _ in 0..1_000 {
        m.now += 7;
        m.schedule(0);
    }
    assert_eq!(m.units[0].vtime - from, 7_000 * 256 / 300);
}

#[test]
fn a_normal_core_is_left_when_pcpus_leave() {
    let mut m = Machine::new(4, 2, 1);
    m.domain(0, 256, 0);
    hogs(&mut m, 0, 2, 0);
    assert_eq!(m.set(|p| p.nr_micro = 3).refused(), None);
    for left in [3, 2, 1] {
        m.online &= m.online - 1;
        m.pending |= !m.online & 0b1111;
        m.settle();
        let (online, micro) = (m.shared.online.count_ones(), m.shared.micro.count_ones());
        assert_eq!((online, micro), (left, left - 1));
    }
}

#[test]
fn resizing_while_running_moves_units_off_and_back() {
    let mut m = consolidated(0);
    m.set(|p| p.nr_micro = 2);
    m.settle();
    assert_eq!((m.current(2), m.current(3)), (NIL, NIL), "normal work stays on micro cores");
    m.set(|p| p.nr_micro = 0);
    m.settle();
    assert!(m.current(2) != NIL && m.current(3) != NIL, "pCPUs idle after they came back");
}

/// A domain of four hogs with row `policy` and one of three on four pCPUs without micro cores, at a moment when some of
/// the first run and some wait.
fn with_policy(policy: Policy) -> Machine {
    let mut m = Machine::new(4, 8, 2);
    m.domain(0, 256, 0);
    m.domain(1, 256, 0);
    m.policy(0, policy);
    m.policy(1, Policy::NONE);
    hogs(&mut m, 0, 4, 0);
    hogs(&mut m, 4, 3, 1);
    m.advance(500 * MS);
    while waiting(&m, 0..4).is_empty() || running_normal(&m, 0).is_none() {
        m.advance(7 * MS);
    }
    m
}

fn waiting(m: &Machine, units: std::ops::Range<u16>) -> Vec<u16> {
    units.filter(|u| m.units[usize::from(*u)].place == Place::Queued).collect()
}

#[test]
fn borrow_runs_all_preempted_siblings_at_once_and_everybody_resumes() {
    let mut m = with_policy(Policy::BORROW);
    let sender = running_normal(&m, 0).expect("a unit of domain 0 runs");
    let cpu = m.units[usize::from(sender)].cpu;
    let preempted = waiting(&m, 0..4);
    assert!(!preempted.is_empty());
    let running: Vec<u16> = (0..4).map(|c| m.current(c)).collect();
    let (before, micro) = (m.ran.clone(), m.shared.params.micro_slice.0);
    assert!(m.send(Event::Yield { unit: sender, class: Class::IpiWait, far: Siblings::NONE }).kept);
    m.schedule(cpu);
    m.advance(micro * (preempted.len() as u64 + 1));
    for u in preempted {
        let ran = m.ran[usize::from(u)] - before[usize::from(u)];
        assert!(ran > 0 && ran <= micro, "preempted sibling {u} ran {ran} ns: not one micro slice");
    }
    let after: Vec<u16> = (0..4).map(|c| m.current(c)).collect();
    assert_eq!(after, running, "an interrupted unit did not resume");
    assert!(m.doms[0].counts.lent_runs > 0, "the yielder, who only spins, did not lend its pCPU");
}

#[test]
fn a_yield_by_hypercall_is_a_wait_for_ipis_and_a_preemption_in_the_stub_is_nothing() {
    let mut m = consolidated(1);
    let sender = running_normal(&m, 0).unwrap();
    m.send(Event::Yield { unit: sender, class: Class::Hypercall, far: Siblings::NONE });
    let c = m.doms[0].counts;
    assert_eq!((c.yields_ipi, c.yields_other), (1, 0));
    assert!(c.accel_ipi > 0, "its preempted siblings were not helped");
}

#[test]
fn borrow_takes_no_core_inside_a_critical_service_and_a_core_rarely() {
    let mut m = with_policy(Policy::BORROW);
    (4..7).for_each(|u| m.class[u] = Class::LockHold);
    let to = waiting(&m, 0..4)[0];
    m.send(Event::Kick { unit: to });
    m.settle();
    assert_eq!(m.units[usize::from(to)].place, Place::Queued, "one critical service interrupts another");
    assert_eq!(m.doms[0].counts.borrow_runs, 0);

    let mut m = with_policy(Policy::BORROW);
    let (from, micro) = (m.now, m.shared.params.micro_slice.0);
    while m.now < from + 200 * MS {
        (0..4).for_each(|unit| m.kick(unit));
        m.advance(micro / 4);
    }
    let most = 4 * (200 * MS).div_ceil(10 * micro) + 4;
    let borrowed = m.doms[0].counts.borrow_runs;
    assert!(
        borrowed > 0 && borrowed <= most,
        "{borrowed} slices were borrowed from four cores, not {most} at most"
    );
}

#[test]
fn urgency_by_borrowing_gains_no_share() {
    let mut m = with_policy(Policy::GRACE);
    (0..4).for_each(|u| m.class[u] = Class::LockHold);
    let (start, from) = (m.ran.clone(), m.now);
    while m.now < from + 10_000 * MS {
        (0..4).for_each(|unit| m.kick(unit));
        m.advance(MS / 2);
    }
    let got = |r: std::ops::Range<usize>| r.map(|u| m.ran[u] - start[u]).sum::<u64>() as f64;
    let share = got(0..4) / (got(0..4) + got(4..8));
    assert!(share < 0.58, "the faker got {share:.3} of what was run, not four of seven parts");
}

#[test]
fn grace_puts_off_a_preemption_inside_a_critical_service_once_and_briefly() {
    let mut m = with_policy(Policy::GRACE);
    let unit = running_normal(&m, 0).unwrap();
    let cpu = m.units[usize::from(unit)].cpu;
    m.class[usize::from(unit)] = Class::LockHold;
    let end = m.ends[usize::from(cpu)];
    m.advance(end - m.now);
    assert_eq!(m.current(cpu), unit, "it was preempted inside a critical service");
    m.advance(m.shared.params.grace.0);
    m.settle();
    assert_ne!(m.current(cpu), unit, "it stays longer than grace allows");
    assert_eq!(m.doms[0].counts.graces, 1);
}

#[test]
fn with_eager_a_preempted_critical_service_goes_on_at_once() {
    let mut m = consolidated(1);
    m.policy(0, Policy::EAGER);
    let unit = running_normal(&m, 0).unwrap();
    m.class[usize::from(unit)] = Class::IpiServe;
    let end = m.ends[usize::from(m.units[usize::from(unit)].cpu)];
    m.advance(end - m.now);
    m.settle();
    assert_eq!(m.current(3), unit, "the preempted critical service does not run on the micro core");
    assert_eq!(m.doms[0].counts.accel_preempt, 1);
    m.advance(m.shared.params.micro_slice.0);
    m.settle();
    assert_eq!(m.current(3), NIL, "it was made urgent twice");
}

#[test]
fn front_gets_the_next_slice_that_ends() {
    let mut m = with_policy(Policy { event: Action::Front, ..Policy::NONE });
    let to = *waiting(&m, 0..4).last().unwrap();
    m.send(Event::Kick { unit: to });
    let end = m.ends.iter().copied().min().unwrap();
    m.advance(end - m.now);
    m.settle();
    assert_eq!(m.units[usize::from(to)].place, Place::OnCpu, "a slice ended and somebody else was first");
}

#[test]
fn a_micro_core_that_is_not_reserved_does_normal_work_and_gives_way_at_once() {
    let mut m = consolidated(1);
    m.set(|p| p.reserve = 0);
    m.settle();
    let normal = m.current(3);
    assert_ne!(normal, NIL, "a core is left idle while units wait");
    let to = waiting(&m, 0..4)[0];
    m.send(Event::Kick { unit: to });
    m.settle();
    assert_eq!(m.current(3), to, "normal work did not give way");
    m.advance(m.shared.params.micro_slice.0);
    m.settle();
    assert_eq!(m.current(3), normal, "the interrupted unit did not resume");
}

/// Lets `ms` milliseconds pass in which domain 0 sends `each` events for preempted units every millisecond.
fn load(m: &mut Machine, ms: u64, each: usize) -> Vec<u32> {
    (0..ms)
        .map(|_| {
            waiting(m, 0..4).into_iter().take(each).for_each(|unit| m.kick(unit));
            m.advance(MS);
            m.shared.micro.count_ones()
        })
        .collect()
}

#[test]
fn adaptive_sizing_follows_demand_without_oscillation_and_sleeps_without_it() {
    let mut m = consolidated(0);
    m.set(|p| (p.sizing, p.max_micro) = (2, 3));
    m.advance(100 * MS);
    m.settle();
    assert_eq!((m.shared.micro, m.timer), (0, 0), "there is no demand, and still a timer or a micro core");
    let sizes = load(&mut m, 1_000, 2);
    assert!(sizes[200..].iter().all(|n| *n == sizes[999] && *n > 0), "it does not settle: {sizes:?}");
    // A load that comes and goes keeps its cores.
    let sizes: Vec<u32> = (0..10).flat_map(|i| load(&mut m, 150, if i % 2 == 0 { 2 } else { 0 })).collect();
    assert!(sizes.iter().all(|n| *n == sizes[0]), "a square wave makes the pool oscillate: {sizes:?}");
    m.advance(1_000 * MS);
    m.settle();
    assert_eq!((m.shared.micro, m.timer), (0, 0), "the load is gone; the micro core and the timer are not");
}

#[test]
fn sizing_leaves_a_pinned_unit_its_normal_core_and_says_the_size_that_is() {
    let mut m = consolidated(0);
    m.send(Event::Affinity { unit: 7, hard: 1 << 3, soft: !0 });
    m.settle();
    m.set(|p| (p.sizing, p.max_micro) = (2, 3));
    assert!(load(&mut m, 200, 2).iter().all(|n| *n == 0), "a pinned unit has no normal core left");
    assert_eq!(m.shared.sizing.size, 0, "a size is reported that was not reached");
    m.send(Event::Affinity { unit: 7, hard: !0, soft: !0 });
    assert!(load(&mut m, 200, 2).contains(&1), "the unit is free to go, and sizing has given up");
}

#[test]
fn paper_sizing_goes_through_algorithm_1() {
    let mut m = consolidated(0);
    m.set(|p| (p.sizing, p.max_micro) = (1, 3));
    let sizes = load(&mut m, 500, 0);
    assert!(sizes.iter().all(|n| *n == 0), "no sign of trouble, and still micro cores");
    // Signs that are not IPI waits: one core.
    let sizes = load(&mut m, 3_000, 1);
    assert!(sizes.contains(&1) && sizes.iter().all(|n| *n <= 1), "{sizes:?}");
    // IPI waits: each of 1..=3 is tried.
    let mut seen = [false; 4];
    for _ in 0..4_000 {
        if let Some(unit) = running_normal(&m, 0) {
            m.send(Event::Yield { unit, class: Class::IpiWait, far: Siblings::NONE });
        }
        m.advance(MS);
        seen[m.shared.micro.count_ones() as usize] = true;
    }
    assert_eq!(seen, [true; 4], "some number of micro cores was never tried");
}

#[test]
fn who_loses_its_promised_core_to_an_urgent_unit_gets_another_idle_one() {
    let mut m = Machine::new(4, 3, 2);
    m.domain(0, 256, 0);
    m.domain(1, 256, 0);
    m.set(|p| (p.nr_micro, p.reserve) = (3, 1));
    m.unit(0, 0, !0);
    m.unit(1, 0, !0);
    // Nothing but micro cores 1 to 3.
    m.unit(2, 1, 0b1110);
    m.wake(0);
    m.wake(1);
    m.settle();
    m.wake(2);
    let promised = m.units[2].promised;
    let waits = waiting(&m, 0..2)[0];
    m.kick(waits);
    m.schedule(promised);
    m.settle();
    assert_eq!(m.units[2].place, Place::OnCpu, "a pCPU idles while the unit waits for it");
}

#[test]
fn a_yielder_lends_its_core_also_to_a_sibling_that_an_event_made_urgent_before() {
    let mut m = with_policy(Policy::BORROW);
    // No core of the other domain may lend.
    (4..7).for_each(|u| m.class[u] = Class::LockHold);
    let (sender, to) = (running_normal(&m, 0).unwrap(), waiting(&m, 0..4));
    let cpu = m.units[usize::from(sender)].cpu;
    to.iter().for_each(|unit| m.kick(*unit));
    m.settle();
    assert_eq!(waiting(&m, 0..4), to);
    assert!(m.send(Event::Yield { unit: sender, class: Class::IpiWait, far: Siblings::NONE }).kept);
    m.schedule(cpu);
    assert!(to.contains(&m.current(cpu)), "the yielder spins while the sibling it waits for is not served");
}

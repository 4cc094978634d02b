// SPDX-License-Identifier: MIT OR Apache-2.0
//! The border between the hypervisor's C and the core: the only unsafe code on the hypervisor side.
//!
//! The C side gives one block of memory for each pool ([`ms_rs_size`], [`ms_rs_init`]) and holds the pool's lock around
//! every call that takes it. Nothing here keeps a pointer after it returns. Structures are `repr(C)` and are declared a
//! second time in Xen's `xen/common/sched/microslice-rs.h`; `ms_rs_abi` lets the C side refuse an object of another layout at start-up.
//!
//! Everything numeric that C passes is checked here: an event kind, class or pool that does not exist is refused.
#![cfg_attr(target_os = "none", no_std)]

#[cfg(not(target_os = "none"))]
pub mod replay;

use core::mem::{align_of, size_of};
use core::slice;

use microslice_core::class::{self, RangeError};
use microslice_core::pool::{Decision, Event, Offer, Pool, Refusal};
use microslice_core::state::{Dom, MAX_DOMS, MAX_UNITS, NIL, Shared, Unit, Work};
use microslice_core::{Class, Counts, Params, Policy, Range, Record, Siblings, Time};

/// Changes with every change of a structure or of a function's meaning.
pub const ABI: u32 = 8;
/// Traces of these versions replay: since 7 a wake-up may say more, and nothing else has changed.
pub const REPLAYS: core::ops::RangeInclusive<u32> = 7..=ABI;

const MAGIC: u64 = 0x4d49_4352_4f53_4c31;

const EINVAL: i32 = -22;
const ENOENT: i32 = -2;
const E2BIG: i32 = -7;

/// Start of a pool's block; the units and then the domains follow.
#[repr(C)]
struct Head {
    magic: u64,
    units: u32,
    doms: u32,
    shared: Shared,
}

/// One event, in C's form. What a field means depends on `kind`; the others are ignored.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MsEvent {
    /// `MS_EV_*`.
    pub kind: u16,
    /// Class (schedule, yield, awaited).
    pub class: u16,
    /// A pCPU, unit or domain.
    pub id: u32,
    /// Number on the host (pCPU up), unit's domain (unit add), weight (domain set), row (domain policy), offer (schedule),
    /// siblings elsewhere (yield: 1 if one was helped, 2 if one is left; domain elsewhere: how many), saved (wake).
    pub a: u32,
    /// Cap (domain set), runnable (schedule), how far ahead (unit add).
    pub b: u32,
    /// Hard affinity.
    pub hard: u64,
    /// Soft affinity.
    pub soft: u64,
    /// Settings (set).
    pub params: *const Params,
}

/// State of a pool, for the toolstack.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MsPoolInfo {
    /// Settings.
    pub params: Params,
    /// pCPUs of the pool.
    pub online: u64,
    /// Those that are micro cores.
    pub micro: u64,
    /// Micro slices so far.
    pub micro_runs: u64,
    /// Nanoseconds of micro slices so far.
    pub micro_ns: u64,
    /// Longest stay on a micro core while another urgent unit could have used it, ns.
    pub micro_stay_max: u64,
}

/// State of a unit, for the debug key.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MsUnitInfo {
    /// Virtual time.
    pub vtime: u64,
    /// 0 absent, 1 asleep, 2 queued, 3 on a pCPU, 4 leaving.
    pub place: u32,
    /// Current or last pCPU.
    pub cpu: u32,
    /// Class at the last preemption.
    pub class: u32,
    /// The action by which it is being helped; 0: none.
    pub urgent: u32,
    /// Ms of virtual time ahead of the pool's clock.
    pub ahead: i32,
    /// Weight of its domain.
    pub weight: u32,
}

fn layout(units: u32, doms: u32) -> Option<(usize, usize, usize)> {
    if units == 0 || units as usize > MAX_UNITS || doms == 0 || doms as usize > MAX_DOMS {
        return None;
    }
    let units_at = size_of::<Head>();
    let doms_at = units_at.checked_add((units as usize).checked_mul(size_of::<Unit>())?)?;
    let end = doms_at.checked_add((doms as usize).checked_mul(size_of::<Dom>())?)?;
    Some((units_at, doms_at, end))
}

const _: () = assert!(
    align_of::<Head>() == 8
        && size_of::<Head>().is_multiple_of(8)
        && size_of::<Unit>().is_multiple_of(8)
        && align_of::<Dom>() <= 8
);

/// Version of this object's structures and functions.
#[unsafe(no_mangle)]
pub extern "C" fn ms_rs_abi() -> u32 {
    ABI
}

/// Bytes of memory for a pool of `units` units and `doms` domains; 0 if there cannot be such a pool.
#[unsafe(no_mangle)]
pub extern "C" fn ms_rs_size(units: u32, doms: u32) -> usize {
    layout(units, doms).map_or(0, |l| l.2)
}

/// Makes an empty pool with the given settings in `mem`. 0, or `-EINVAL`.
///
/// # Safety
/// `mem` must be 8-byte aligned and writable for `size` bytes; `params` must be readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ms_rs_init(
    mem: *mut u8,
    size: usize,
    units: u32,
    doms: u32,
    params: *const Params,
) -> i32 {
    // SAFETY: the caller promises that `params` is readable or null.
    let params = unsafe { params.as_ref() };
    let (Some((units_at, doms_at, end)), Some(params)) = (layout(units, doms), params) else {
        return EINVAL;
    };
    if mem.is_null() || size < end || !(mem as usize).is_multiple_of(align_of::<Head>()) || !params.in_range()
    {
        return EINVAL;
    }
    // SAFETY: the three parts lie inside `size` writable bytes (checked above) and are aligned to 8 because `mem` and
    // the sizes of the parts before them are (const assertion).
    unsafe {
        let head = mem.cast::<Head>();
        (*head).magic = MAGIC;
        (*head).units = units;
        (*head).doms = doms;
        (&raw mut (*head).shared).write(Shared::EMPTY);
        (*head).shared.begin(*params);
        let first = mem.add(units_at).cast::<Unit>();
        for i in 0..units as usize {
            first.add(i).write(Unit::ABSENT);
        }
        let first = mem.add(doms_at).cast::<Dom>();
        for i in 0..doms as usize {
            first.add(i).write(Dom::ABSENT);
        }
    }
    0
}

/// The pool in `mem`; `None` if `ms_rs_init` never made one there.
///
/// # Safety
/// `mem` is null or was given to `ms_rs_init`, and the caller holds the pool's lock for `'a`.
unsafe fn pool<'a>(mem: *mut u8) -> Option<Pool<'a>> {
    let head = mem.cast::<Head>();
    // SAFETY: `mem` is null or points to a `Head` (caller's promise), and the lock makes this the only reference.
    let head = unsafe { head.as_mut() }.filter(|h| h.magic == MAGIC)?;
    let (units, doms) = (head.units as usize, head.doms as usize);
    // SAFETY: `ms_rs_init` checked that the block holds this many units after its head and then so many domains, and wrote
    // them (`layout`); they do not overlap the head or each other.
    let (units, doms) = unsafe {
        let first = mem.add(size_of::<Head>()).cast::<Unit>();
        let end = first.add(units).cast::<Dom>();
        (slice::from_raw_parts_mut(first, units), slice::from_raw_parts_mut(end, doms))
    };
    Some(Pool { shared: &mut head.shared, units, doms })
}

fn id8(n: u32) -> u8 {
    u8::try_from(n).unwrap_or(u8::MAX)
}

fn id16(n: u32) -> u16 {
    u16::try_from(n).unwrap_or(NIL)
}

/// The event that `e`, of this kind, says; `params` is what it points to. `None`: C cannot have meant it.
// Whoever knows the kind pays for that one only.
#[inline(always)]
fn event(kind: u16, e: &MsEvent, params: Option<&Params>) -> Option<Event> {
    // Not a jump table: the hypervisor has no indirect jumps.
    Some(match kind {
        1 => Event::CpuUp { cpu: id8(e.id), number: u16::try_from(e.a).ok()? },
        2 => Event::CpuDown { cpu: id8(e.id) },
        3 => Event::DomAdd { dom: id16(e.id) },
        4 => Event::DomRemove { dom: id16(e.id) },
        5 => Event::DomSet { dom: id16(e.id), weight: e.a, cap: e.b },
        6 => Event::UnitAdd {
            unit: id16(e.id),
            dom: id16(e.a),
            hard: e.hard,
            soft: e.soft,
            ahead: i16::try_from(e.b.cast_signed()).ok()?,
        },
        7 => Event::UnitRemove { unit: id16(e.id) },
        8 => Event::Affinity { unit: id16(e.id), hard: e.hard, soft: e.soft },
        9 => Event::Wake { unit: id16(e.id), saved: e.a != 0 },
        10 => Event::Sleep { unit: id16(e.id) },
        11 => {
            let class = Class::from_abi(u32::from(e.class))?;
            Event::Yield { unit: id16(e.id), class, far: Siblings::from_abi(e.a)? }
        }
        12 => Event::Kick { unit: id16(e.id) },
        13 => {
            let offer = match e.a {
                0 => Offer::Run,
                1 => Offer::IdleOnce,
                2 => Offer::Offline,
                _ => return None,
            };
            let class = Class::from_abi(u32::from(e.class))?;
            Event::Schedule { cpu: id8(e.id), offer, runnable: e.b != 0, class }
        }
        14 => Event::Saved { unit: id16(e.id) },
        15 => Event::Timer,
        16 => Event::Set { params: *params? },
        17 => Event::DomPolicy { dom: id16(e.id), policy: Policy::from_abi(e.a)? },
        18 => Event::Awaited { dom: id16(e.id), class: Class::from_abi(u32::from(e.class))? },
        19 => Event::DomElsewhere { dom: id16(e.id), units: u16::try_from(e.a).ok()? },
        _ => return None,
    })
}

/// What happens all the time, told apart once; else [`seldom`]. `None`: C cannot have meant it.
#[inline(always)]
fn often(
    pool: &mut Pool<'_>,
    now: Time,
    e: &MsEvent,
    params: Option<&Params>,
    d: &mut Decision,
) -> Option<()> {
    match e.kind {
        13 => pool.handle(now, event(13, e, None)?, d),
        14 => pool.handle(now, event(14, e, None)?, d),
        9 => pool.handle(now, event(9, e, None)?, d),
        10 => pool.handle(now, event(10, e, None)?, d),
        11 => pool.handle(now, event(11, e, None)?, d),
        12 => pool.handle(now, event(12, e, None)?, d),
        _ => seldom(pool, now, e, params, d)?,
    }
    Some(())
}

/// Everything else.
#[inline(never)]
fn seldom(
    pool: &mut Pool<'_>,
    now: Time,
    e: &MsEvent,
    params: Option<&Params>,
    d: &mut Decision,
) -> Option<()> {
    // Those that happen often are not compiled a second time.
    let kind = Some(e.kind).filter(|kind| !(9..=14).contains(kind))?;
    pool.handle(now, event(kind, e, params)?, d);
    Some(())
}

/// What is needed to do an event again; nothing, if C cannot have meant it.
#[inline(never)]
fn note(now: Time, e: &MsEvent, params: Option<&Params>, d: &Decision) -> Record {
    event(e.kind, e, params).map_or_else(Record::default, |event| Record::of(now, &event, d))
}

/// Gives event `e` at time `now` (ns) to the pool in `mem`; the answer is written to `out`, and what is needed to do it
/// again to `record`, unless that is null. An event that C cannot have meant is refused and changes nothing: then
/// `record` gets kind 0.
///
/// # Safety
/// `mem` was given to `ms_rs_init`; the caller holds the pool's lock; `e` is readable, and so is what its `params` points to
/// unless that is null; `out` is writable, and `record` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ms_rs_handle(
    mem: *mut u8,
    now: u64,
    e: *const MsEvent,
    out: *mut Decision,
    record: *mut Record,
) {
    // SAFETY: the caller promises a writable answer, which may never have been written before.
    unsafe { out.write(Decision::NOTHING) };
    // SAFETY: the caller promises a pool under its lock, a readable event, that what it points to is readable or null, an answer
    // and perhaps a record.
    let (mut pool, e, params, d, record) =
        unsafe { (pool(mem), &*e, (*e).params.as_ref(), &mut *out, record.as_mut()) };
    let done = pool.as_mut().and_then(|pool| often(pool, Time(now), e, params, d));
    if done.is_none() {
        d.error = Refusal::Range as i16;
        d.waits = pool.is_some_and(|p| p.waits());
    }
    if let Some(record) = record {
        *record = note(Time(now), e, params, d);
    }
}

/// Whether the pool would take these settings. 0, or what `MS_EV_SET` would be refused with.
///
/// # Safety
/// As [`ms_rs_handle`]; `params` is readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ms_rs_check_params(mem: *mut u8, params: *const Params) -> i32 {
    // SAFETY: the caller promises a pool under its lock and readable settings.
    let (pool, params) = unsafe { (pool(mem), params.as_ref()) };
    let (Some(pool), Some(params)) = (pool, params) else { return EINVAL };
    pool.check(params).map_or_else(|refusal| i32::from(refusal as i16), |()| 0)
}

/// The weights of the units that run or wait, added up.
///
/// # Safety
/// As [`ms_rs_handle`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ms_rs_load(mem: *mut u8) -> u64 {
    // SAFETY: the caller promises a pool under its lock.
    let pool = unsafe { pool(mem) };
    pool.map_or(0, |p| p.load())
}

/// The first unit from `from` on that waits and that no pCPU was poked for; `MS_NONE` if there is none.
///
/// # Safety
/// As [`ms_rs_handle`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ms_rs_next_waiting(mem: *mut u8, from: u32) -> u32 {
    // SAFETY: the caller promises a pool under its lock.
    let pool = unsafe { pool(mem) };
    u32::from(pool.map_or(NIL, |p| p.next_waiting(id16(from))))
}

/// Counters of domain `dom`. 0, or `-ENOENT`.
///
/// # Safety
/// As [`ms_rs_handle`]; `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ms_rs_dom_counts(mem: *mut u8, dom: u32, out: *mut Counts) -> i32 {
    // SAFETY: the caller promises a pool under its lock and a writable answer.
    let (pool, out) = unsafe { (pool(mem), out.as_mut()) };
    let dom = pool.and_then(|p| p.doms.get(dom as usize).copied()).filter(|d| d.present);
    match (dom, out) {
        (Some(d), Some(out)) => {
            *out = d.counts;
            0
        }
        _ => ENOENT,
    }
}

/// Weight and cap of domain `dom`. 0, or `-ENOENT`.
///
/// # Safety
/// As [`ms_rs_handle`]; `weight` and `cap` are writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ms_rs_dom_get(mem: *mut u8, dom: u32, weight: *mut u32, cap: *mut u32) -> i32 {
    // SAFETY: the caller promises a pool under its lock and writable answers.
    let (pool, weight, cap) = unsafe { (pool(mem), weight.as_mut(), cap.as_mut()) };
    let dom = pool.and_then(|p| p.doms.get(dom as usize).copied()).filter(|d| d.present);
    match (dom, weight, cap) {
        (Some(d), Some(weight), Some(cap)) => {
            *weight = d.weight;
            *cap = d.cap;
            0
        }
        _ => ENOENT,
    }
}

/// Row of domain `dom`, the action for source `i` in byte `i`. 0, or `-ENOENT`.
///
/// # Safety
/// As [`ms_rs_handle`]; `policy` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ms_rs_dom_policy(mem: *mut u8, dom: u32, policy: *mut u32) -> i32 {
    // SAFETY: the caller promises a pool under its lock and a writable answer.
    let (pool, policy) = unsafe { (pool(mem), policy.as_mut()) };
    let dom = pool.and_then(|p| p.doms.get(dom as usize).copied()).filter(|d| d.present);
    let (Some(d), Some(policy)) = (dom, policy) else { return ENOENT };
    *policy = d.policy.to_abi();
    0
}

/// State of the pool. 0, or `-ENOENT`.
///
/// # Safety
/// As [`ms_rs_handle`]; `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ms_rs_pool_info(mem: *mut u8, out: *mut MsPoolInfo) -> i32 {
    // SAFETY: the caller promises a pool under its lock and a writable answer.
    let (pool, out) = unsafe { (pool(mem), out.as_mut()) };
    let (Some(p), Some(out)) = (pool, out) else { return ENOENT };
    *out = MsPoolInfo {
        params: p.shared.params,
        online: p.shared.online,
        micro: p.shared.micro,
        micro_runs: p.shared.micro_runs,
        micro_ns: p.shared.micro_ns,
        micro_stay_max: p.shared.micro_stay_max.0,
    };
    0
}

/// State of unit `unit`. 0, or `-ENOENT`.
///
/// # Safety
/// As [`ms_rs_handle`]; `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ms_rs_unit_info(mem: *mut u8, unit: u32, out: *mut MsUnitInfo) -> i32 {
    // SAFETY: the caller promises a pool under its lock and a writable answer.
    let (pool, out) = unsafe { (pool(mem), out.as_mut()) };
    let (Some(pool), Some(out)) = (pool, out) else { return ENOENT };
    let Some(u) = pool.unit(id16(unit)) else { return ENOENT };
    *out = MsUnitInfo {
        vtime: u.vtime,
        place: u.place as u32,
        cpu: u32::from(u.cpu),
        class: u.class as u32,
        urgent: u.urgent as u32,
        ahead: i32::from(pool.ahead(id16(unit))),
        weight: pool.doms.get(usize::from(u.dom)).map_or(0, |d| d.weight),
    };
    0
}

/// What pCPU `cpu` does: 0 idle, 1 a normal slice, 2 a micro slice.
///
/// # Safety
/// As [`ms_rs_handle`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ms_rs_cpu_work(mem: *mut u8, cpu: u32) -> u32 {
    // SAFETY: the caller promises a pool under its lock.
    let pool = unsafe { pool(mem) };
    pool.and_then(|p| p.cpu(id8(cpu)).map(|c| c.work)).map_or(0, |w| match w {
        Work::Idle => 0,
        Work::Normal => 1,
        Work::Micro => 2,
    })
}

/// Ranges in `table`, or an empty table if there is none.
///
/// # Safety
/// `table` is null or readable for `nr` ranges.
unsafe fn table<'a>(table: *const Range, nr: u32) -> &'a [Range] {
    if table.is_null() {
        return &[];
    }
    // SAFETY: the caller promises `nr` readable ranges at a non-null `table`, aligned as C's struct is.
    unsafe { slice::from_raw_parts(table, nr as usize) }
}

/// Class of instruction pointer `rip` in a table that `ms_rs_check_ranges` accepted.
///
/// # Safety
/// `ranges` is null or readable for `nr` ranges.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ms_rs_classify(ranges: *const Range, nr: u32, rip: u64) -> u32 {
    // SAFETY: the caller's promise is `table`'s.
    class::classify(unsafe { table(ranges, nr) }, rip) as u32
}

/// Checks a table from outside. 0, `-E2BIG` (too many) or `-EINVAL` (malformed, unsorted, overlapping).
///
/// # Safety
/// `ranges` is null or readable for `nr` ranges.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ms_rs_check_ranges(ranges: *const Range, nr: u32) -> i32 {
    // SAFETY: the caller's promise is `table`'s.
    match class::check(unsafe { table(ranges, nr) }) {
        Ok(()) => 0,
        Err(RangeError::TooMany) => E2BIG,
        Err(_) => EINVAL,
    }
}

/// A panic cannot be reached: the link check refuses an object that refers to one. The language wants a handler.
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(units: u32, doms: u32) -> Vec<u64> {
        let size = ms_rs_size(units, doms);
        let mut mem = vec![0u64; size / 8];
        let at = mem.as_mut_ptr().cast::<u8>();
        // SAFETY: the vector is 8-byte aligned and `size` bytes long.
        assert_eq!(unsafe { ms_rs_init(at, size, units, doms, &Params::DEFAULT) }, 0);
        mem
    }

    fn send(mem: &mut [u64], kind: u32, id: u32, a: u32, b: u32) -> Decision {
        let params = std::ptr::null();
        let e = MsEvent { kind: kind as u16, class: b as u16, id, a, b, hard: !0, soft: !0, params };
        let mut d = Decision { error: 1, ..Decision::NOTHING };
        // SAFETY: `mem` holds a pool; the test is its only user.
        unsafe { ms_rs_handle(mem.as_mut_ptr().cast(), 1000, &e, &mut d, std::ptr::null_mut()) };
        d
    }

    #[test]
    fn a_unit_runs_through_the_c_interface() {
        let mut mem = make(8, 4);
        assert_eq!(send(&mut mem, 1, 0, 0, 0).error, 0);
        assert_eq!(send(&mut mem, 3, 1, 0, 0).error, 0);
        assert_eq!(send(&mut mem, 6, 5, 1, 0).error, 0);
        assert_eq!(send(&mut mem, 9, 5, 0, 0).poke, 1, "nobody is asked to run the waking unit");
        let d = send(&mut mem, 13, 0, 0, 0);
        assert_eq!((d.run, d.slice.0), (5, 30_000_000));
    }

    #[test]
    fn nonsense_from_c_is_refused() {
        let mut mem = make(8, 4);
        for (kind, id, a, b) in [
            (0, 0, 0, 0),
            (17, 0, 0, 0),
            (17, 1, 0, 0),
            (18, 0, 0, 0),
            (u32::MAX, 0, 0, 0),
            (1, 64, 0, 0),
            (1, u32::MAX, 0, 0),
            (1, 0, 65_536, 0),
            (6, 8, 0, 0),
            (6, 0, 0, 0),
            (9, 70_000, 0, 0),
            (11, 0, 0, 11),
            (5, 0, 0, 0),
            (16, 0, 0, 0),
        ] {
            assert!(send(&mut mem, kind, id, a, b).error < 0, "event {kind} {id} {a} {b} was accepted");
        }
        assert_eq!(ms_rs_size(0, 1), 0);
        assert_eq!(ms_rs_size(u32::MAX, u32::MAX), 0);
        // SAFETY: a block of zeros is a pool that was never made.
        assert_eq!(unsafe { ms_rs_cpu_work([0u64; 4096].as_mut_ptr().cast(), 0) }, 0);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a vCPU was doing when it lost or offered its pCPU, read off its instruction pointer.
//!
//! A guest kernel's critical symbols arrive as sorted, disjoint address ranges, each with a [`Class`]. [`classify`] finds
//! the range that holds an instruction pointer in O(log n), n at most [`MAX_RANGES`]. User mode has no class: only kernel
//! critical services are accelerated. What the hypervisor knows besides, interrupts that are off or about to be delivered, it
//! says as [`Class::IrqsOff`] and [`Class::Irq`].

/// Upper bound on the ranges of one domain.
pub const MAX_RANGES: usize = 4096;

/// What the guest kernel was doing. The numbers are the hypercall ABI's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// Nothing critical, user mode, or unknown.
    #[default]
    None = 0,
    /// Spinning for a lock: the yielder's side.
    LockWait = 1,
    /// Holding or releasing a lock.
    LockHold = 2,
    /// Waiting until other vCPUs have answered a TLB-shootdown or function-call IPI.
    IpiWait = 3,
    /// Answering such an IPI.
    IpiServe = 4,
    /// Serving a reschedule IPI.
    Resched = 5,
    /// Entering or leaving an interrupt; or one is about to be delivered, wherever the vCPU is. The hypervisor finds out the
    /// latter.
    Irq = 6,
    /// Inside the page allocator or page release.
    PageAlloc = 7,
    /// Waking the waiters of a read-write semaphore.
    RwsemWake = 8,
    /// In kernel mode with interrupts off, outside every range. The hypervisor finds it out; no table may hold it.
    IrqsOff = 9,
    /// In the stub that makes a hypercall: a wait for IPIs if the hypercall is a yield, nothing if it was preempted there.
    Hypercall = 10,
}

impl Class {
    /// The class of an ABI number; `None` if there is no such class.
    #[must_use]
    pub const fn from_abi(n: u32) -> Option<Self> {
        Some(match n {
            0 => Self::None,
            1 => Self::LockWait,
            2 => Self::LockHold,
            3 => Self::IpiWait,
            4 => Self::IpiServe,
            5 => Self::Resched,
            6 => Self::Irq,
            7 => Self::PageAlloc,
            8 => Self::RwsemWake,
            9 => Self::IrqsOff,
            10 => Self::Hypercall,
            _ => return None,
        })
    }

    /// Whether siblings may be waiting for a vCPU that was preempted in this class. One that only waits for a lock
    /// keeps nobody waiting; one that waits for IPIs usually holds the lock under which it sent them.
    #[must_use]
    pub const fn is_critical(self) -> bool {
        !matches!(self, Self::None | Self::LockWait | Self::Hypercall)
    }

    /// Whether the vCPU comes to the end of it by running for a moment. One that waits for others does not.
    #[must_use]
    pub const fn ends_by_running(self) -> bool {
        self.is_critical() && !matches!(self, Self::IpiWait)
    }
}

/// A range of guest kernel addresses: `start` inside, `end` outside. Layout of the hypercall ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// First address after the range.
    pub end: u64,
    /// A [`Class`] number, neither 0 nor [`Class::IrqsOff`].
    pub class: u32,
    /// Zero.
    pub pad: u32,
}

/// Why a table of ranges is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeError {
    /// More than [`MAX_RANGES`].
    TooMany,
    /// An empty range, a class that no range may have, or non-zero padding, at this index.
    Malformed(usize),
    /// The range at this index starts before its predecessor ends.
    Unsorted(usize),
}

/// Checks a table that came from outside: sorted, disjoint, non-empty ranges of known classes.
///
/// # Errors
/// The first thing that is wrong, see [`RangeError`].
pub fn check(ranges: &[Range]) -> Result<(), RangeError> {
    if ranges.len() > MAX_RANGES {
        return Err(RangeError::TooMany);
    }
    let mut floor = 0;
    for (i, r) in ranges.iter().enumerate() {
        let known = matches!(Class::from_abi(r.class), Some(c) if c != Class::None && c != Class::IrqsOff);
        if r.start >= r.end || !known || r.pad != 0 {
            return Err(RangeError::Malformed(i));
        }
        if r.start < floor {
            return Err(RangeError::Unsorted(i));
        }
        floor = r.end;
    }
    Ok(())
}

/// The class of instruction pointer `rip` in a table that [`check`] accepted.
///
/// On a table it would refuse the answer is meaningless but the work is still bounded.
#[must_use]
pub fn classify(ranges: &[Range], rip: u64) -> Class {
    // The last range with start <= rip, or the first one, by the longest window that fits.
    let last = within::<2048>(ranges, rip)
        .or_else(|| within::<1024>(ranges, rip))
        .or_else(|| within::<512>(ranges, rip))
        .or_else(|| within::<256>(ranges, rip))
        .or_else(|| within::<128>(ranges, rip))
        .or_else(|| within::<64>(ranges, rip))
        .or_else(|| within::<32>(ranges, rip))
        .or_else(|| within::<16>(ranges, rip))
        .or_else(|| within::<8>(ranges, rip))
        .or_else(|| within::<4>(ranges, rip))
        .or_else(|| within::<2>(ranges, rip))
        .or_else(|| within::<1>(ranges, rip));
    match last {
        Some(r) if r.start <= rip && rip < r.end => Class::from_abi(r.class).unwrap_or_default(),
        _ => Class::None,
    }
}

/// Searches the first and the last `N` of `ranges`, which are all of them if there are `N` to `2 * N`. `None` if there
/// are fewer.
#[inline(always)]
fn within<const N: usize>(ranges: &[Range], rip: u64) -> Option<&Range>
where
    [Range; N]: Window,
{
    let (low, high) = (ranges.first_chunk::<N>()?, ranges.last_chunk::<N>()?);
    let half = if high.first()?.start <= rip { high } else { low };
    Some(half.last_before(rip))
}

/// Ranges whose number the compiler knows: a step of the search is a compare and a conditional move, without a loop.
trait Window {
    fn last_before(&self, rip: u64) -> &Range;
}

impl Window for [Range; 1] {
    #[inline(always)]
    fn last_before(&self, _: u64) -> &Range {
        let [r] = self;
        r
    }
}

macro_rules! windows {
    ($($n:literal)*) => { $(
        impl Window for [Range; $n] {
            #[inline(always)]
            fn last_before(&self, rip: u64) -> &Range {
                let (low, high) = self.split_at($n / 2);
                let half = if high.first().is_some_and(|r| r.start <= rip) { high } else { low };
                match half.first_chunk::<{ $n / 2 }>() {
                    Some(half) => half.last_before(rip),
                    None => &self[0],
                }
            }
        }
    )* };
}
windows! { 2 4 8 16 32 64 128 256 512 1024 2048 }

const _: () = assert!(MAX_RANGES == 4096);

#[cfg(test)]
mod tests {
    use super::*;

    fn r(start: u64, end: u64, class: u32) -> Range {
        Range { start, end, class, pad: 0 }
    }

    #[test]
    fn an_address_gets_the_class_of_the_range_that_holds_it() {
        let t = [r(10, 20, 1), r(20, 30, 3), r(40, 50, 8)];
        check(&t).unwrap();
        for (rip, want) in [
            (0, Class::None),
            (9, Class::None),
            (10, Class::LockWait),
            (19, Class::LockWait),
            (20, Class::IpiWait),
            (29, Class::IpiWait),
            (30, Class::None),
            (39, Class::None),
            (40, Class::RwsemWake),
            (49, Class::RwsemWake),
            (50, Class::None),
            (u64::MAX, Class::None),
        ] {
            assert_eq!(classify(&t, rip), want, "rip {rip}");
        }
        assert_eq!(classify(&[], 5), Class::None);
    }

    #[test]
    fn a_table_of_any_size_is_searched_as_if_from_end_to_end() {
        let many: std::vec::Vec<_> =
            (0..4096u64).map(|i| r(i * 4 + 2, i * 4 + 4, (i % 8) as u32 + 1)).collect();
        for n in (0..70).chain([127, 128, 129, 1000, 1023, 1024, 1025, 2047, 2048, 2049, 4000, 4095, 4096]) {
            let t = &many[..n];
            for rip in 0..n as u64 * 4 + 6 {
                let want = t.iter().find(|r| r.start <= rip && rip < r.end).map_or(0, |r| r.class);
                assert_eq!(classify(t, rip) as u32, want, "rip {rip} in {n} ranges");
            }
        }
    }

    #[test]
    fn classes_keep_their_abi_numbers_and_mean_what_they_say() {
        for n in 0..=10 {
            assert_eq!(Class::from_abi(n).map(|c| c as u32), Some(n));
        }
        assert_eq!(Class::from_abi(11), None);
        for waits in [Class::None, Class::LockWait, Class::Hypercall] {
            assert!(!waits.is_critical(), "{waits:?} keeps nobody waiting");
        }
        assert!(
            Class::IpiWait.is_critical() && !Class::IpiWait.ends_by_running(),
            "it holds a lock, and waits itself"
        );
        assert!(Class::IrqsOff.ends_by_running());
        assert_eq!(check(&[r(1, 2, Class::Hypercall as u32)]), Ok(()));
    }

    #[test]
    fn a_hostile_table_is_refused_with_the_place_of_the_fault() {
        assert_eq!(check(&[r(10, 10, 1)]), Err(RangeError::Malformed(0)));
        assert_eq!(check(&[r(10, 5, 1)]), Err(RangeError::Malformed(0)));
        assert_eq!(check(&[r(1, 2, 0)]), Err(RangeError::Malformed(0)));
        assert_eq!(check(&[r(1, 2, 1), r(2, 3, 9)]), Err(RangeError::Malformed(1)));
        assert_eq!(check(&[r(1, 5, 1), r(4, 6, 1)]), Err(RangeError::Unsorted(1)));
        assert_eq!(check(&[r(5, 6, 1), r(1, 2, 1)]), Err(RangeError::Unsorted(1)));
        assert_eq!(check(&[Range { pad: 1, ..r(1, 2, 1) }]), Err(RangeError::Malformed(0)));
        let many: std::vec::Vec<_> = (0..4097u64).map(|i| r(i * 2, i * 2 + 1, 1)).collect();
        assert_eq!(check(&many), Err(RangeError::TooMany));
        assert_eq!(check(&many[1..]), Ok(()));
    }
}

// SPDX-License-Identifier: GPL-3.0-only
//! A domain's table of critical ranges. Checked here first, so that an error can say which range is wrong; Xen checks
//! again and keeps the old table on any error.

use super::call::DomctlUnion;
use super::error::{Error, Op};
use super::types::{Domain, Range};
use super::{MAX_RANGES, Xen};
use crate::hyper::raw;

impl Xen {
    /// Replaces the whole table, and returns its generation.
    pub fn push_ranges(&self, domain: &Domain, ranges: &[Range]) -> Result<u64, Error> {
        check(ranges).map_err(|why| Error::refused(Op::PushRanges, domain.object(), why))?;
        self.put_ranges(Op::PushRanges, domain, ranges)
    }

    /// Replaces the table by an empty one, and returns its generation.
    pub fn drop_ranges(&self, domain: &Domain) -> Result<u64, Error> {
        self.put_ranges(Op::DropRanges, domain, &[])
    }

    fn put_ranges(&self, op: Op, domain: &Domain, ranges: &[Range]) -> Result<u64, Error> {
        let fail = |e| self.fail(op, domain.object(), e);
        let mut buffer = self.call.buffer::<raw::xen_domctl_microslice_range>(ranges.len()).map_err(fail)?;
        for (to, from) in buffer.as_mut_slice().iter_mut().zip(ranges) {
            *to = raw::xen_domctl_microslice_range {
                start: from.start,
                end: from.end,
                service: from.class,
                pad: 0,
            };
        }
        let mut u = DomctlUnion { microslice_ranges: raw::xen_domctl_sched_microslice_ranges::default() };
        u.microslice_ranges.ranges.p = buffer.handle();
        u.microslice_ranges.nr = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
        self.domctl(op, domain, raw::XEN_DOMCTL_SCHEDOP_putranges, &mut u)?;
        // SAFETY: the member this sub-command returns; any bits are valid.
        Ok(unsafe { u.microslice_ranges.generation })
    }

    /// The table that is in force.
    pub fn ranges(&self, domain: &Domain) -> Result<Vec<Range>, Error> {
        let fail = |e| self.fail(Op::ReadRanges, domain.object(), e);
        let mut buffer = self.call.buffer::<raw::xen_domctl_microslice_range>(MAX_RANGES).map_err(fail)?;
        let mut u = DomctlUnion { microslice_ranges: raw::xen_domctl_sched_microslice_ranges::default() };
        u.microslice_ranges.ranges.p = buffer.handle();
        u.microslice_ranges.nr = raw::XEN_DOMCTL_MICROSLICE_MAX_RANGES;
        self.domctl(Op::ReadRanges, domain, raw::XEN_DOMCTL_SCHEDOP_getranges, &mut u)?;
        // SAFETY: the member this sub-command returns; any bits are valid.
        let nr = unsafe { u.microslice_ranges.nr } as usize;
        let entries = buffer.as_mut_slice().iter().take(nr);
        Ok(entries.map(|r| Range { start: r.start, end: r.end, class: r.service }).collect())
    }
}

/// The interface's rules: sorted, disjoint, not empty, of a known class, not too many.
pub fn check(ranges: &[Range]) -> Result<(), String> {
    if ranges.len() > MAX_RANGES {
        return Err(format!("{} ranges: a domain may have {MAX_RANGES}", ranges.len()));
    }
    let mut last: Option<&Range> = None;
    for (i, range) in ranges.iter().enumerate() {
        let (n, Range { start, end, class }) = (i + 1, *range);
        if end <= start {
            return Err(format!("range {n} ({start:#x} to {end:#x}) is empty"));
        }
        let known = raw::XEN_DOMCTL_MICROSLICE_CLASS_LOCK_WAIT..=raw::XEN_DOMCTL_MICROSLICE_CLASS_RWSEM_WAKE;
        if !known.contains(&class) && class != raw::XEN_DOMCTL_MICROSLICE_CLASS_HYPERCALL {
            return Err(format!("range {n} ({start:#x} to {end:#x}) has the unknown class {class}"));
        }
        match last {
            Some(last) if start < last.start => {
                return Err(format!(
                    "range {n} ({start:#x}) comes after range {i} ({:#x}): not sorted",
                    last.start
                ));
            }
            Some(last) if start < last.end => {
                return Err(format!("range {n} ({start:#x}) overlaps range {i} (to {:#x})", last.end));
            }
            _ => last = Some(range),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn r(start: u64, end: u64) -> Range {
        Range { start, end, class: 1 }
    }

    #[test]
    fn a_table_xen_would_take_is_taken() {
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[r(0, 1), r(1, 2), r(8, u64::MAX)]), Ok(()));
    }

    #[test]
    fn the_wrong_range_is_named() {
        let cases = [
            (vec![r(4, 4)], "range 1 (0x4 to 0x4) is empty"),
            (vec![r(8, 9), r(4, 5)], "range 2 (0x4) comes after range 1 (0x8): not sorted"),
            (vec![r(4, 9), r(8, 10)], "range 2 (0x8) overlaps range 1 (to 0x9)"),
            (vec![Range { class: 9, ..r(4, 9) }], "range 1 (0x4 to 0x9) has the unknown class 9"),
            (vec![Range { class: 0, ..r(4, 9) }], "range 1 (0x4 to 0x9) has the unknown class 0"),
            ((0..4097).map(|i| r(i, i + 1)).collect(), "4097 ranges: a domain may have 4096"),
        ];
        for (ranges, why) in cases {
            assert_eq!(check(&ranges), Err(why.to_owned()));
        }
    }
}

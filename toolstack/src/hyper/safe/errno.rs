// SPDX-License-Identifier: GPL-3.0-only
//! What an errno from the hypervisor is called, and what it means for the operation that got it. Xen's numbers are
//! Linux's for all that are named here.

use super::error::Op;

/// Error numbers that the hypercalls of this package can return.
pub const EPERM: i32 = 1;
/// No such object; for cpupools.
pub const ENOENT: i32 = 2;
/// No such domain.
pub const ESRCH: i32 = 3;
/// Too many ranges.
pub const E2BIG: i32 = 7;
/// No memory.
pub const ENOMEM: i32 = 12;
/// Interface version, or the security policy.
pub const EACCES: i32 = 13;
/// Busy.
pub const EBUSY: i32 = 16;
/// Bad parameter.
pub const EINVAL: i32 = 22;
/// Bad address.
pub const EFAULT: i32 = 14;
/// Not implemented.
pub const ENOSYS: i32 = 38;
/// Not supported.
pub const EOPNOTSUPP: i32 = 95;

/// The number's symbolic name.
pub fn name(errno: i32) -> String {
    let name = match errno {
        EPERM => "EPERM",
        ENOENT => "ENOENT",
        ESRCH => "ESRCH",
        4 => "EINTR",
        5 => "EIO",
        6 => "ENXIO",
        E2BIG => "E2BIG",
        11 => "EAGAIN",
        ENOMEM => "ENOMEM",
        EACCES => "EACCES",
        EFAULT => "EFAULT",
        EBUSY => "EBUSY",
        17 => "EEXIST",
        19 => "ENODEV",
        EINVAL => "EINVAL",
        24 => "EMFILE",
        28 => "ENOSPC",
        33 => "EDOM",
        34 => "ERANGE",
        ENOSYS => "ENOSYS",
        61 => "ENODATA",
        75 => "EOVERFLOW",
        EOPNOTSUPP => "EOPNOTSUPP",
        105 => "ENOBUFS",
        other => return format!("errno {other}"),
    };
    name.to_owned()
}

/// Why `op` failed with this number, in the words of the interface (xen/include/public/{domctl,sysctl}.h).
pub fn meaning(op: Op, errno: i32) -> String {
    let text = match (op, errno) {
        (Op::PushRanges, E2BIG) => "more ranges than a domain may have",
        (Op::PushRanges, EINVAL) => {
            "ranges are unsorted, overlapping, empty or of an unknown class, or the domain has left the scheduler"
        }
        (Op::PushRanges | Op::DropRanges, ENOMEM) => {
            "Xen has no memory for the new table; the old one is still in force"
        }
        (Op::SetPool, EINVAL) => {
            "a slice or the number of micro cores is out of range, or the cpupool has left the scheduler"
        }
        (Op::SetPool, EBUSY) => {
            "no normal core would be left to the cpupool, or to a vCPU whose affinity allows only the cores that would turn micro"
        }
        (Op::SetDomain, EINVAL) => "weight or cap is out of range, or the domain has left the scheduler",
        (Op::Trace, ENOMEM) => "Xen has no memory for so many records: give a smaller --room",
        (Op::Trace, 61) => "somebody else has stopped it, or started one of his own",
        (Op::ReadSlide, EINVAL | 61 | ENOENT) => "the domain has no such vCPU context",
        (Op::Trace, 105) => "the scheduler's state has grown meanwhile: try again",
        (Op::ListPools | Op::ReadPool | Op::SetPool | Op::Trace, ESRCH | ENOENT) => "no such cpupool",
        (_, ESRCH) => "no such domain",
        (_, EPERM) => "this domain may not control others: run in dom0",
        (_, EACCES) => {
            "the security policy (XSM) denies it, or this Xen was not built from the tree this microslice was"
        }
        (_, ENOMEM) => "out of memory",
        (_, 14) => "a buffer was not accessible to Xen",
        (_, EBUSY) => "busy",
        (_, EINVAL) => "invalid for this object",
        (_, ENOSYS | EOPNOTSUPP) => "this Xen does not have the operation",
        _ => return system_text(errno),
    };
    text.to_owned()
}

fn system_text(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    // "No such device (os error 19)": the number is already in the name.
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::super::error::{BUILT_FOR, Error, Object};
    use super::*;

    /// The numbers Xen's own list has (xen/include/public/errno.h), for what the interface documents.
    #[test]
    fn names_are_xens() {
        let xen = [
            (1, "EPERM"),
            (2, "ENOENT"),
            (3, "ESRCH"),
            (7, "E2BIG"),
            (12, "ENOMEM"),
            (13, "EACCES"),
            (14, "EFAULT"),
        ];
        for (errno, text) in
            xen.into_iter().chain([(16, "EBUSY"), (22, "EINVAL"), (38, "ENOSYS"), (95, "EOPNOTSUPP")])
        {
            assert_eq!(name(errno), text);
        }
        assert_eq!(name(4095), "errno 4095");
    }

    /// Failures that the lab does not make: what Xen 4.20 returns where, and what the user reads. The second word is the place
    /// in Xen: a function of xen/common/sched/microslice.c unless a file is named.
    const RECORDED: [(Op, &str, i32, &str); 27] = [
        (
            Op::ListPools,
            "xsm_default_action, xsm/dummy.h",
            EPERM,
            "this domain may not control others: run in dom0",
        ),
        (Op::ListPools, "cpupool_do_sysctl, cpupool.c", ENOMEM, "out of memory"),
        (Op::ListDomains, "do_sysctl, sysctl.c", 14, "a buffer was not accessible to Xen"),
        (Op::ReadPool, "sched_adjust_global, core.c", ESRCH, "no such cpupool"),
        (Op::ReadPool, "cpumask_to_xenctl_bitmap, bitmap.c", ENOMEM, "out of memory"),
        (Op::ReadPool, "cpumask_to_xenctl_bitmap, bitmap.c", 14, "a buffer was not accessible to Xen"),
        (Op::SetPool, "sched_adjust_global, core.c", ESRCH, "no such cpupool"),
        (
            Op::SetPool,
            "sched_adjust_global, core.c",
            EINVAL,
            "a slice or the number of micro cores is out of range, or the cpupool has left the scheduler",
        ),
        (Op::ReadDomain, "do_domctl, domctl.c", ESRCH, "no such domain"),
        (Op::ReadDomain, "sched_adjust, core.c", EINVAL, "invalid for this object"),
        (Op::SetDomain, "do_domctl, domctl.c", ESRCH, "no such domain"),
        (
            Op::SetDomain,
            "ms_adjust",
            EINVAL,
            "weight or cap is out of range, or the domain has left the scheduler",
        ),
        (Op::ReadStats, "ms_get_stats", 14, "a buffer was not accessible to Xen"),
        (Op::ReadRanges, "ms_get_ranges", ENOMEM, "out of memory"),
        (Op::ReadRanges, "ms_get_ranges", 14, "a buffer was not accessible to Xen"),
        (Op::PushRanges, "ms_put_ranges", E2BIG, "more ranges than a domain may have"),
        (
            Op::PushRanges,
            "ms_rs_check_ranges, sched-rs/ffi",
            EINVAL,
            "ranges are unsorted, overlapping, empty or of an unknown class, or the domain has left the scheduler",
        ),
        (
            Op::PushRanges,
            "ms_put_ranges",
            ENOMEM,
            "Xen has no memory for the new table; the old one is still in force",
        ),
        (Op::PushRanges, "ms_put_ranges", 14, "a buffer was not accessible to Xen"),
        (Op::PushRanges, "do_domctl, domctl.c", ESRCH, "no such domain"),
        (Op::DropRanges, "do_domctl, domctl.c", ESRCH, "no such domain"),
        (Op::Trace, "sched_adjust_global, core.c", ESRCH, "no such cpupool"),
        (Op::Trace, "ms_trace_start", ENOMEM, "Xen has no memory for so many records: give a smaller --room"),
        (Op::Trace, "ms_trace_start", 105, "the scheduler's state has grown meanwhile: try again"),
        (Op::Trace, "ms_trace_read", 61, "somebody else has stopped it, or started one of his own"),
        (Op::ReadSlide, "hvm_save_one, arch/x86/hvm/save.c", ENOENT, "the domain has no such vCPU context"),
        (
            Op::LookUp,
            "avc_has_perm_noaudit, xsm/flask/avc.c",
            EACCES,
            "the security policy (XSM) denies it, or this Xen was not built from the tree this microslice was",
        ),
    ];

    #[test]
    fn what_the_lab_cannot_make_fail_has_words_of_its_own() {
        for (op, place, errno, cause) in RECORDED {
            let object = match op {
                Op::ListPools | Op::ListDomains => Object::Host,
                Op::ReadPool | Op::SetPool | Op::Trace => Object::Pool(1, "second".into()),
                _ => Object::Domain(3, Some("web".into())),
            };
            let text = Error::xen(op, object.clone(), errno, || Some(BUILT_FOR.into())).to_string();
            let name = name(errno);
            assert!(
                text.ends_with(&format!("{object}: Xen refused with {name}: {cause}")),
                "{place}: {text}"
            );
        }
        assert_eq!(
            meaning(Op::ListPools, 19),
            "no such device",
            "what is not foreseen is said as the system says it"
        );
    }
}

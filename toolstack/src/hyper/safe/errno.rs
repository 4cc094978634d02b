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
/// Interface version, or the security policy.
pub const EACCES: i32 = 13;
/// Busy.
pub const EBUSY: i32 = 16;
/// Bad parameter.
pub const EINVAL: i32 = 22;
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
        12 => "ENOMEM",
        EACCES => "EACCES",
        14 => "EFAULT",
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
        (Op::PushRanges | Op::DropRanges, 12) => {
            "Xen has no memory for the new table; the old one is still in force"
        }
        (Op::SetPool, EINVAL) => {
            "a slice or the number of micro cores is out of range, or the cpupool has left the scheduler"
        }
        (Op::SetPool, EBUSY) => {
            "no normal core would be left to the cpupool, or to a vCPU whose affinity allows only the cores that would turn micro"
        }
        (Op::SetDomain, EINVAL) => "weight or cap is out of range, or the domain has left the scheduler",
        (Op::Trace, 12) => "Xen has no memory for so many records: give a smaller --room",
        (Op::Trace, 61) => "somebody else has stopped it, or started one of his own",
        (Op::ReadSlide, EINVAL | 61 | ENOENT) => "the domain has no such vCPU context",
        (_, ESRCH) => "no such domain",
        (Op::ReadPool | Op::SetPool | Op::ListPools, ENOENT) => "no such cpupool",
        (_, EPERM) => "this domain may not control others: run in dom0",
        (_, EACCES) => "the security policy (XSM) denies it",
        (_, 12) => "out of memory",
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

    /// Every errno of the interface has a cause of its own, not just the system's text.
    #[test]
    fn documented_errors_have_causes() {
        let documented = [
            (Op::PushRanges, [E2BIG, EINVAL, 12, 14, EPERM, ESRCH].as_slice()),
            (Op::SetPool, &[EINVAL, EBUSY, 14, EPERM, ENOENT]),
            (Op::SetDomain, &[EINVAL, EPERM, ESRCH]),
        ];
        for (op, errnos) in documented {
            for &errno in errnos {
                assert_ne!(meaning(op, errno), system_text(errno), "{op:?} {}", name(errno));
            }
        }
        assert_eq!(meaning(Op::ListPools, 19), "no such device");
    }
}

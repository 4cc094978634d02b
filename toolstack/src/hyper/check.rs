// SPDX-License-Identifier: GPL-3.0-only
//! The interface this package was written for, by value, against what the tree's headers say. The layouts themselves
//! are compile-time assertions in the generated bindings.

use super::raw::*;
use microslice_symtab::Class;
use std::mem::{offset_of, size_of};

#[test]
fn versions_and_commands_are_those_of_4_20() {
    assert_eq!(super::safe::error::BUILT_FOR, "4.20");
    assert_eq!((XEN_DOMCTL_INTERFACE_VERSION, XEN_SYSCTL_INTERFACE_VERSION), (0x17, 0x15));
    assert_eq!((__HYPERVISOR_domctl, __HYPERVISOR_sysctl), (36, 35));
    assert_eq!((XEN_DOMCTL_scheduler_op, XEN_SYSCTL_scheduler_op, XEN_SCHEDULER_MICROSLICE), (16, 19, 10));
    assert_eq!((XEN_DOMCTL_SCHEDOP_putinfo, XEN_DOMCTL_SCHEDOP_getinfo), (0, 1));
    assert_eq!(
        (XEN_DOMCTL_SCHEDOP_putranges, XEN_DOMCTL_SCHEDOP_getranges, XEN_DOMCTL_SCHEDOP_getstats),
        (4, 5, 6)
    );
    assert_eq!((XEN_SYSCTL_SCHEDOP_putinfo, XEN_SYSCTL_SCHEDOP_getinfo), (0, 1));
    assert_eq!(XEN_DOMCTL_MICROSLICE_MAX_RANGES, 4096);
}

#[test]
fn layouts_are_those_of_4_20() {
    assert_eq!((size_of::<xen_domctl>(), size_of::<xen_sysctl>()), (144, 136));
    assert_eq!((offset_of!(xen_domctl, u), offset_of!(xen_sysctl, u)), (16, 8));
    assert_eq!((size_of::<xen_domctl_scheduler_op>(), size_of::<xen_sysctl_scheduler_op>()), (32, 128));
    assert_eq!((offset_of!(xen_domctl_scheduler_op, u), offset_of!(xen_sysctl_scheduler_op, u)), (8, 16));
    assert_eq!(
        (size_of::<xen_domctl_microslice_range>(), offset_of!(xen_domctl_microslice_range, service)),
        (24, 16)
    );
    let (ranges, generation) = (
        size_of::<xen_domctl_sched_microslice_ranges>(),
        offset_of!(xen_domctl_sched_microslice_ranges, generation),
    );
    assert_eq!((ranges, generation), (24, 16));
    assert_eq!(size_of::<xen_domctl_microslice_stats>(), 22 * 8);
    assert_eq!(offset_of!(xen_domctl_microslice_stats, generation), 21 * 8);
    assert_eq!(size_of::<xen_sysctl_microslice_schedule>(), 112);
    assert_eq!(offset_of!(xen_sysctl_microslice_schedule, micro_cpus), 96);
}

/// libxenctrl's bindings (xenctrl-sys) come from the same tree.
#[test]
fn xenctrl_sys_saw_the_same_tree() {
    assert_eq!(size_of::<xenctrl_sys::xen_domctl>(), size_of::<xen_domctl>());
    assert_eq!(xenctrl_sys::XEN_DOMCTL_INTERFACE_VERSION, XEN_DOMCTL_INTERFACE_VERSION);
    assert_eq!(xenctrl_sys::XEN_SCHEDULER_MICROSLICE, XEN_SCHEDULER_MICROSLICE);
}

/// symtab's classes are the hypervisor's, number by number and name by name.
#[test]
fn classes_of_symtab_are_those_of_the_headers() {
    let headers = [
        (XEN_DOMCTL_MICROSLICE_CLASS_NONE, "none"),
        (XEN_DOMCTL_MICROSLICE_CLASS_LOCK_WAIT, "lock-wait"),
        (XEN_DOMCTL_MICROSLICE_CLASS_LOCK_HOLD, "lock-hold"),
        (XEN_DOMCTL_MICROSLICE_CLASS_IPI_WAIT, "ipi-wait"),
        (XEN_DOMCTL_MICROSLICE_CLASS_IPI_SERVE, "ipi-serve"),
        (XEN_DOMCTL_MICROSLICE_CLASS_RESCHED, "resched"),
        (XEN_DOMCTL_MICROSLICE_CLASS_IRQ, "irq"),
        (XEN_DOMCTL_MICROSLICE_CLASS_PAGE_ALLOC, "page-alloc"),
        (XEN_DOMCTL_MICROSLICE_CLASS_RWSEM_WAKE, "rwsem-wake"),
        (XEN_DOMCTL_MICROSLICE_CLASS_HYPERCALL, "hypercall"),
    ];
    for (number, name) in headers {
        let class = Class::from_number(number).expect(name);
        assert_eq!((class.number(), class.name()), (number, name));
    }
    let known = (0..256).filter(|&number| Class::from_number(number).is_some());
    assert!(known.eq(headers.map(|(number, _)| number)));
}

/// The rows that have a name are the scheduler core's own, byte by byte, and every name has one.
#[test]
fn rows_are_those_of_the_core() {
    use super::safe::types::Row;
    use clap::ValueEnum;
    use microslice_core::Policy;
    for row in Row::value_variants() {
        let core = match row {
            Row::None => Policy::NONE,
            Row::Paper => Policy::PAPER,
            Row::Eager => Policy::EAGER,
            Row::Borrow => Policy::BORROW,
            Row::Grace => Policy::GRACE,
        };
        assert_eq!(u32::from_le_bytes(row.policy().numbers()), core.to_abi(), "{row:?}");
    }
}

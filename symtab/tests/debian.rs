// SPDX-License-Identifier: MIT OR Apache-2.0
//! A distribution's own kernel: `MICROSLICE_TEST_KERNEL=/boot/vmlinuz-... cargo test`. Unset, this says that it was skipped.

use microslice_symtab::kaslr::{Anchors, Live, Slide};
use microslice_symtab::{Catalog, Class, KernelImage, Kind};
use std::io::Write;
use std::path::PathBuf;

/// The image to test, or `None` if nobody gave one. A bad one is a failure, in the tests.
fn kernel() -> Option<PathBuf> {
    let path = std::env::var_os("MICROSLICE_TEST_KERNEL").map(PathBuf::from);
    if path.is_none() {
        // Not eprintln!, which the test harness swallows when a test passes.
        let said =
            writeln!(std::io::stderr(), "SKIPPED: MICROSLICE_TEST_KERNEL names no distribution's vmlinuz");
        said.unwrap();
    }
    path
}

#[test]
fn every_class_is_found_in_a_small_part_of_the_text() {
    let Some(path) = kernel() else { return };
    let image = KernelImage::open(&path).unwrap();
    let ranges = image.ranges(&Catalog::builtin());
    let report = ranges.report();
    println!("{report}");
    assert!(matches!(image.kind(), Kind::BzImage | Kind::Elf | Kind::StrippedElf));
    assert!(image.version().is_some(), "no banner");
    assert!(image.build_id().is_some_and(|id| id.len() == 40), "no build id");
    assert!(image.symbols().filter(|symbol| symbol.is_text()).count() > 10_000);
    for class in &report.classes {
        let (found, lacking) = (class.found.len(), class.lacking.len());
        assert!(
            found >= 1 && lacking <= found / 2 + 2,
            "{}: {found} found, lacks {:?}",
            class.class,
            class.lacking
        );
    }
    assert!((50..512).contains(&ranges.len()), "{} ranges", ranges.len());
    assert!(report.share() < 0.01, "{} of the kernel's text is critical", report.share());
    assert!(report.shadowed.is_empty(), "{:?}", report.shadowed);
    for pair in ranges.as_slice().windows(2) {
        let [first, second] = pair else { unreachable!() };
        let apart = first.end < second.start || (first.end == second.start && first.class != second.class);
        assert!(apart, "{first:?} {second:?}");
    }
    let entry = image.symbol("entry_SYSCALL_64").unwrap();
    assert!(image.text().contains(&entry.address) && ranges.find(entry.address).is_none());
}

/// What a Xen guest's yields and interrupts pass through must be there, whatever else a kernel may lack.
#[test]
fn names_that_detection_stands_on() {
    let Some(path) = kernel() else { return };
    let image = KernelImage::open(&path).unwrap();
    let ranges = image.ranges(&Catalog::builtin());
    let names = [
        ("smp_call_function_many_cond", Class::IpiWait),
        ("flush_tlb_mm_range", Class::IpiWait),
        ("do_flush_tlb_all", Class::IpiServe),
        ("sysvec_xen_hvm_callback", Class::Irq),
        ("asm_sysvec_xen_hvm_callback", Class::Irq),
        ("__pv_queued_spin_lock_slowpath", Class::LockWait),
        ("native_queued_spin_lock_slowpath", Class::LockWait),
        ("__raw_callee_save___pv_queued_spin_unlock", Class::LockHold),
        ("_raw_spin_unlock_irqrestore", Class::LockHold),
        ("resched_curr", Class::Resched),
        ("get_page_from_freelist", Class::PageAlloc),
        ("rwsem_mark_wake", Class::RwsemWake),
    ];
    for (name, class) in names {
        let symbol = image.symbol(name).unwrap_or_else(|| panic!("{name} is not in {}", path.display()));
        let range = ranges.find(symbol.address).unwrap_or_else(|| panic!("{name} has no class"));
        assert_eq!(range.class, class, "{name}");
        assert!(range.names.iter().any(|own| own == name));
    }
    // The hypercall page's stub, or the functions that took its place.
    let class = |name: &str| ranges.find(image.symbol(name)?.address).map(|range| range.class);
    if image.symbol("xen_hypercall_sched_op").is_some() {
        assert_eq!(class("xen_hypercall_sched_op"), Some(Class::Hypercall));
        return;
    }
    for name in ["xen_hypercall_intel", "xen_hypercall_amd", "xen_hypercall_pv"] {
        assert_eq!(class(name), Some(Class::Hypercall), "{name}");
    }
    assert_eq!(class("xen_hypercall_hvm"), None);
}

/// Mutations and truncations of the real thing.
#[test]
fn damage_is_an_error_or_another_kernel_but_no_panic() {
    let Some(path) = kernel() else { return };
    let good = std::fs::read(&path).unwrap();
    for (number, part) in [3, 10, 50, 75, 90].into_iter().enumerate() {
        let at = good.len() * part / 100;
        assert!(KernelImage::from_bytes(&good[..at]).is_err(), "cut at {part} %");
        let mut bad = good.clone();
        bad[at] ^= 1 << number;
        let _ = KernelImage::from_bytes(&bad).map(|image| image.ranges(&Catalog::builtin()));
    }
}

/// A slide that both anchors of the image give is the slide.
#[test]
fn both_anchors_of_kaslr_are_there() {
    let Some(path) = kernel() else { return };
    let image = KernelImage::open(&path).unwrap();
    let anchors = Anchors::of(&image);
    assert!(!anchors.page_fault.is_empty(), "no page-fault handler");
    let live = Live {
        lstar: anchors.syscall.unwrap() + 0x1a00_0000,
        page_fault: Some(anchors.page_fault[0] + 0x1a00_0000),
    };
    assert_eq!(anchors.slide(live), Ok(Slide { bytes: 0x1a00_0000, anchors: 2 }));
}

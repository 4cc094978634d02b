// SPDX-License-Identifier: MIT OR Apache-2.0
//! KASLR's slide from two addresses that a running vCPU gives away, each against the image's own symbols.
//!
//! - `MSR_LSTAR` holds `entry_SYSCALL_64`. Linux 4.14-stable to 4.19 with page-table isolation put a per-CPU trampoline
//!   there instead (`entry_SYSCALL_64_trampoline`), mapped in the cpu_entry_area: then this anchor says nothing.
//! - Entry 14 of the interrupt descriptor table holds the page fault's handler: `asm_exc_page_fault` since 5.8,
//!   before that `page_fault`, or `async_page_fault` under KVM.
//!
//! x86-64 Linux slides by multiples of CONFIG_PHYSICAL_ALIGN, at least 2 MiB, upwards, within an image area of 1 GiB
//! (Documentation/arch/x86/x86_64/mm.rst). Anything else means that the image is not of the kernel that runs.

use crate::image::KernelImage;
use serde::{Deserialize, Serialize};

/// Every slide is a multiple of this, in bytes.
pub const SLIDE_ALIGN: u64 = 2 << 20;
/// Every slide is below this, in bytes.
pub const SLIDE_AREA: u64 = 1 << 30;
/// Where the page fault's gate is in an IDT, in bytes: vector 14, 16 bytes a gate.
pub const PAGE_FAULT_GATE: u64 = 14 * 16;
/// The fixed mapping of per-CPU entry code and stacks: 512 GiB from here.
const CPU_ENTRY_AREA: std::ops::Range<u64> = 0xffff_fe00_0000_0000..0xffff_fe80_0000_0000;

/// Where an image has the functions that a running kernel gives away, at link-time addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchors {
    /// `entry_SYSCALL_64`.
    pub syscall: Option<u64>,
    /// Whether the kernel has `entry_SYSCALL_64_trampoline`, which may take its place in the MSR.
    #[serde(default)]
    pub trampoline: bool,
    /// What the page fault's gate may point at: several names in one kernel are possible.
    #[serde(default)]
    pub page_fault: Vec<u64>,
}

/// What one vCPU says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// MSR 0xc0000082; 0 before the kernel has set it.
    pub lstar: u64,
    /// The handler's address in entry 14 of the IDT, see [`gate_address`]; `None` if it could not be read.
    pub page_fault: Option<u64>,
}

/// Why there is no slide.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SlideError {
    /// The kernel has not come so far.
    #[error("MSR_LSTAR is 0: the guest's kernel has not set up its system calls yet")]
    NotBooted,
    /// The image has no symbol to hold the address against.
    #[error("the image has no {0}")]
    NoAnchor(&'static str),
    /// MSR_LSTAR points at a per-CPU trampoline and the IDT is unknown.
    #[error(
        "MSR_LSTAR {0:#x} is a per-CPU trampoline, which says no slide, and the IDT's page-fault entry is not known"
    )]
    Trampoline(u64),
    /// An address that no slide explains.
    #[error(
        "{what} is {live:#x}, the image's is {link:#x}: the difference is no multiple of 2 MiB below 1 GiB, as every slide is; is the image of the kernel that runs?"
    )]
    Impossible {
        /// Which anchor.
        what: &'static str,
        /// The vCPU's.
        live: u64,
        /// The image's.
        link: u64,
    },
    /// Two possible slides that differ.
    #[error(
        "MSR_LSTAR {lstar:#x} says slide {by_lstar:#x}, the IDT's page-fault entry {page_fault:#x} says slide {by_page_fault:#x}: the image is not of the kernel that runs, or one of them has been redirected"
    )]
    Disagreement {
        /// The vCPU's MSR_LSTAR.
        lstar: u64,
        /// The slide by it.
        by_lstar: u64,
        /// The vCPU's page-fault handler.
        page_fault: u64,
        /// The slide by it.
        by_page_fault: u64,
    },
}

/// A slide and what stands behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slide {
    /// Bytes to add to link-time addresses.
    pub bytes: u64,
    /// Anchors that agree on it: 1 or 2.
    pub anchors: u8,
}

const LSTAR: &str = "MSR_LSTAR";
const PAGE_FAULT: &str = "the IDT's page-fault entry";

impl Anchors {
    /// The anchors of an image.
    pub fn of(image: &KernelImage) -> Anchors {
        let address = |name: &str| image.symbol(name).map(|symbol| symbol.address);
        let handlers = ["asm_exc_page_fault", "page_fault", "async_page_fault"];
        Anchors {
            syscall: address("entry_SYSCALL_64"),
            trampoline: address("entry_SYSCALL_64_trampoline").is_some(),
            page_fault: handlers.into_iter().filter_map(address).collect(),
        }
    }

    /// The slide of a running kernel.
    ///
    /// ```
    /// use microslice_symtab::kaslr::{Anchors, Live};
    /// let image = Anchors {
    ///     syscall: Some(0xffff_ffff_81e0_0080),
    ///     trampoline: false,
    ///     page_fault: vec![0xffff_ffff_81e0_0b30],
    /// };
    /// let live = Live { lstar: 0xffff_ffff_9be0_0080, page_fault: Some(0xffff_ffff_9be0_0b30) };
    /// assert_eq!(image.slide(live).unwrap().bytes, 0x1a00_0000);
    /// ```
    ///
    /// # Errors
    /// See [`SlideError`]: where two anchors disagree, the message has both.
    pub fn slide(&self, live: Live) -> Result<Slide, SlideError> {
        if live.lstar == 0 {
            return Err(SlideError::NotBooted);
        }
        let known = live.page_fault.filter(|_| !self.page_fault.is_empty());
        let by_page_fault = known.map(|address| self.by_page_fault(address).map(|bytes| (address, bytes)));
        if self.trampoline && CPU_ENTRY_AREA.contains(&live.lstar) {
            let (_, bytes) = by_page_fault.ok_or(SlideError::Trampoline(live.lstar))??;
            return Ok(Slide { bytes, anchors: 1 });
        }
        let syscall = self.syscall.ok_or(SlideError::NoAnchor("entry_SYSCALL_64"))?;
        let by_lstar = difference(LSTAR, live.lstar, syscall)?;
        let Some((page_fault, by_page_fault)) = by_page_fault.transpose()? else {
            return Ok(Slide { bytes: by_lstar, anchors: 1 });
        };
        if by_lstar != by_page_fault {
            let lstar = live.lstar;
            return Err(SlideError::Disagreement { lstar, by_lstar, page_fault, by_page_fault });
        }
        Ok(Slide { bytes: by_lstar, anchors: 2 })
    }

    /// The handlers lie within a page of each other, so at most one gives a multiple of 2 MiB.
    fn by_page_fault(&self, address: u64) -> Result<u64, SlideError> {
        let mut failed = SlideError::NoAnchor("asm_exc_page_fault, page_fault or async_page_fault");
        for &link in &self.page_fault {
            match difference(PAGE_FAULT, address, link) {
                Ok(bytes) => return Ok(bytes),
                Err(err) => failed = err,
            }
        }
        Err(failed)
    }
}

fn difference(what: &'static str, live: u64, link: u64) -> Result<u64, SlideError> {
    let bytes = live.wrapping_sub(link);
    if bytes >= SLIDE_AREA || !bytes.is_multiple_of(SLIDE_ALIGN) {
        return Err(SlideError::Impossible { what, live, link });
    }
    Ok(bytes)
}

/// The handler's address in a 16-byte gate of a 64-bit IDT (Intel SDM volume 3, 64-bit IDT gate descriptors); `None` if
/// the gate is not present.
///
/// ```
/// use microslice_symtab::kaslr::gate_address;
/// let gate = [0x30, 0x0b, 0x10, 0x00, 0x00, 0x8e, 0xe0, 0x81, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
/// assert_eq!(gate_address(gate), Some(0xffff_ffff_81e0_0b30));
/// ```
pub fn gate_address(gate: [u8; 16]) -> Option<u64> {
    let [a, b, _, _, _, flags, c, d, e, f, g, h, ..] = gate;
    (flags & 0x80 != 0).then(|| u64::from_le_bytes([a, b, c, d, e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSCALL: u64 = 0xffff_ffff_81a0_0080;
    const FAULT: u64 = 0xffff_ffff_81a0_0b30;

    fn anchors() -> Anchors {
        Anchors { syscall: Some(SYSCALL), trampoline: false, page_fault: vec![FAULT, FAULT + 0x40] }
    }

    fn slide(lstar: u64, page_fault: Option<u64>) -> Result<Slide, SlideError> {
        anchors().slide(Live { lstar, page_fault })
    }

    #[test]
    fn two_anchors_agree() {
        for bytes in [0, 0x20_0000, 0x1a00_0000, 0x3fe0_0000] {
            for fault in [FAULT, FAULT + 0x40] {
                let found = slide(SYSCALL + bytes, Some(fault + bytes));
                assert_eq!(found, Ok(Slide { bytes, anchors: 2 }));
            }
            assert_eq!(slide(SYSCALL + bytes, None), Ok(Slide { bytes, anchors: 1 }));
        }
    }

    #[test]
    fn a_disagreement_says_both() {
        let err = slide(SYSCALL + 0x20_0000, Some(FAULT + 0x40_0000)).unwrap_err().to_string();
        for part in ["0xffffffff81c00080", "slide 0x200000", "0xffffffff81e00b30", "slide 0x400000"] {
            assert!(err.contains(part), "{err}");
        }
    }

    #[test]
    fn another_kernel_is_refused() {
        for lstar in [SYSCALL + 0x40, SYSCALL - 0x20_0000, SYSCALL + 0x4000_0000, 0x7fff_0000_0000] {
            assert!(
                matches!(slide(lstar, None), Err(SlideError::Impossible { what: LSTAR, .. })),
                "{lstar:#x}"
            );
        }
        let err = slide(SYSCALL, Some(FAULT + 8)).unwrap_err();
        assert!(matches!(err, SlideError::Impossible { what: PAGE_FAULT, .. }), "{err}");
        assert_eq!(slide(0, Some(FAULT)), Err(SlideError::NotBooted));
        let none = Anchors::default();
        assert!(matches!(
            none.slide(Live { lstar: SYSCALL, page_fault: None }),
            Err(SlideError::NoAnchor(_))
        ));
    }

    #[test]
    fn a_trampoline_leaves_the_page_fault_alone_to_say() {
        let old = Anchors { trampoline: true, ..anchors() };
        let lstar = 0xffff_fe00_0000_6000;
        let found = old.slide(Live { lstar, page_fault: Some(FAULT + 0x60_0000) });
        assert_eq!(found, Ok(Slide { bytes: 0x60_0000, anchors: 1 }));
        assert_eq!(old.slide(Live { lstar, page_fault: None }), Err(SlideError::Trampoline(lstar)));
        assert!(slide(lstar, Some(FAULT)).is_err());
    }

    #[test]
    fn a_gate_that_is_not_present_has_no_address() {
        assert_eq!(gate_address([0; 16]), None);
    }
}

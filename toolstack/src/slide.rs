// SPDX-License-Identifier: GPL-3.0-only
//! KASLR: how far a domain's running kernel is from its link-time addresses. The rule is `microslice_symtab::kaslr`'s; here
//! only vCPU 0's MSR_LSTAR is read, not its IDT. A PV kernel is started by the domain builder where it was linked.

use crate::cli::Slide;
use crate::hyper::safe::Xen;
use crate::hyper::safe::error::{Error, Op};
use crate::hyper::safe::types::{Domain, Kind};
use crate::rangefile::KernelRanges;
use microslice_symtab::kaslr::{Anchors, Live, SlideError};

/// The slide that the command line asks for, for a domain that runs the kernel these ranges are of.
pub fn slide(xen: &Xen, domain: &Domain, kernel: &KernelRanges, wanted: Slide) -> Result<i64, Error> {
    let refuse = |why: String| Error::refused(Op::ReadSlide, domain.object(), why);
    match wanted {
        Slide::Bytes(bytes) => Ok(bytes),
        Slide::Auto if domain.kind == Kind::Pv => Ok(0),
        Slide::Auto => {
            let anchor = kernel.anchor.ok_or_else(|| {
                refuse(
                    "the file does not say where entry_SYSCALL_64 is: give --slide none or a number".into(),
                )
            })?;
            from_lstar(xen.lstar(domain)?, anchor).map_err(refuse)
        }
    }
}

fn from_lstar(lstar: u64, anchor: u64) -> Result<i64, String> {
    let image = Anchors { syscall: Some(anchor), ..Anchors::default() };
    match image.slide(Live { lstar, page_fault: None }) {
        Ok(slide) => Ok(slide.bytes.cast_signed()),
        Err(e @ SlideError::NotBooted) => {
            Err(format!("{e}: wait until it has booted, or give --slide none or a number"))
        }
        Err(e) => Err(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANCHOR: u64 = 0xffff_ffff_81a0_0080;

    #[test]
    fn a_slide_is_a_multiple_of_2_mib_within_1_gib() {
        assert_eq!(from_lstar(ANCHOR, ANCHOR), Ok(0));
        assert_eq!(from_lstar(ANCHOR + 0x1a00_0000, ANCHOR), Ok(0x1a00_0000));
    }

    #[test]
    fn another_kernel_is_refused_and_an_early_one_asked_to_wait() {
        for (lstar, why) in
            [(0, "wait until it has booted"), (ANCHOR + 0x40, "is the image of the kernel that runs?")]
        {
            let error = from_lstar(lstar, ANCHOR).unwrap_err();
            assert!(error.contains(why), "{lstar:#x}: {error}");
        }
    }
}

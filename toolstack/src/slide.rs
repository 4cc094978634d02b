// SPDX-License-Identifier: GPL-3.0-only
//! KASLR: how far a domain's running kernel is from its link-time addresses, and whether it is the kernel that the ranges
//! are of. The rules are `microslice_symtab::kaslr`'s and `microslice_symtab::Identity`'s; vCPU 0's MSR_LSTAR and IDT and the
//! kernel's banner are read from the guest. A PV kernel is started by the domain builder where it was linked.

use crate::cli::Slide;
use crate::hyper::safe::Xen;
use crate::hyper::safe::error::{Error, Op};
use crate::hyper::safe::types::{Domain, Kind};
use crate::rangefile::KernelRanges;
use microslice_symtab::Identity;
use microslice_symtab::kaslr::{Anchors, Live, SlideError};

/// The slide that the command line asks for, for a domain that runs the kernel these ranges are of. One whose banner says
/// that it runs another is refused.
pub fn slide(xen: &Xen, domain: &Domain, kernel: &KernelRanges, wanted: Slide) -> Result<i64, Error> {
    let refuse = |why: String| Error::refused(Op::ReadSlide, domain.object(), why);
    let slide = match wanted {
        Slide::Bytes(bytes) => bytes,
        Slide::Auto if domain.kind == Kind::Pv => return Ok(0),
        Slide::Auto if kernel.anchors.syscall.is_none() => {
            return Err(refuse(
                "the file does not say where entry_SYSCALL_64 is: give --slide none or a number".into(),
            ));
        }
        Slide::Auto => from_entries(&kernel.anchors, xen.kernel_entries(domain)?).map_err(refuse)?,
    };
    if let Some(place) = kernel.banner_at.and_then(|at| at.checked_add_signed(slide))
        && domain.kind != Kind::Pv
        && let Some(running) = xen.banner(domain, place)?
    {
        let image = Identity { banner: kernel.kernel.clone(), ..Identity::default() };
        image.check(&running).map_err(|other| refuse(other.to_string()))?;
    }
    Ok(slide)
}

fn from_entries(image: &Anchors, live: Live) -> Result<i64, String> {
    match image.slide(live) {
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

    fn from_lstar(lstar: u64) -> Result<i64, String> {
        let image = Anchors { syscall: Some(ANCHOR), ..Anchors::default() };
        from_entries(&image, Live { lstar, page_fault: None })
    }

    #[test]
    fn a_slide_is_a_multiple_of_2_mib_within_1_gib() {
        assert_eq!(from_lstar(ANCHOR), Ok(0));
        assert_eq!(from_lstar(ANCHOR + 0x1a00_0000), Ok(0x1a00_0000));
    }

    #[test]
    fn another_kernel_is_refused_and_an_early_one_asked_to_wait() {
        for (lstar, why) in
            [(0, "wait until it has booted"), (ANCHOR + 0x40, "is the image of the kernel that runs?")]
        {
            let error = from_lstar(lstar).unwrap_err();
            assert!(error.contains(why), "{lstar:#x}: {error}");
        }
    }
}

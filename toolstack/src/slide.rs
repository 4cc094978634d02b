// SPDX-License-Identifier: GPL-3.0-only
//! KASLR: how far a domain's running kernel is from its link-time addresses, and whether it is the kernel that the ranges
//! are of. The rules are `microslice_symtab::kaslr`'s and `microslice_symtab::Identity`'s; vCPU 0's MSR_LSTAR and IDT and the
//! kernel's banner are read from the guest. What a file does not say is not checked: a list of symbols has no banner, and
//! a range file may lack all of it.
//!
//! A PV kernel is started by the domain builder where it was linked, and nothing of it is checked.

use crate::cli::Slide;
use crate::hyper::safe::Xen;
use crate::hyper::safe::error::{Error, Op};
use crate::hyper::safe::types::{Domain, Kind};
use crate::rangefile::KernelRanges;
use microslice_symtab::Identity;
use microslice_symtab::kaslr::{Anchors, Live, SlideError};

/// The slide of a domain that runs the kernel these ranges are of, in bytes. Refused: a slide asked for that is not the
/// guest's, a guest that has not booted so far (unless a slide was asked for), and one that runs another kernel.
pub fn slide(xen: &Xen, domain: &Domain, kernel: &KernelRanges, wanted: Slide) -> Result<i64, Error> {
    let nothing_to_check = kernel.anchors.syscall.is_none() && kernel.banner_at.is_none();
    match wanted {
        Slide::Auto if domain.kind == Kind::Pv => return Ok(0),
        Slide::Bytes(bytes) if domain.kind == Kind::Pv || nothing_to_check => return Ok(bytes),
        _ => {}
    }
    let live = if kernel.anchors.page_fault.is_empty() {
        Live { lstar: xen.lstar(domain)?, page_fault: None }
    } else {
        xen.kernel_entries(domain)?
    };
    let slide = decide(&kernel.anchors, live, wanted)
        .map_err(|why| Error::refused(Op::ReadSlide, domain.object(), why))?;
    if live.lstar != 0
        && let (Some(at), Some(_)) = (kernel.banner_at, &kernel.kernel)
    {
        let place = at.wrapping_add_signed(slide);
        check_banner(kernel.kernel.clone(), place, xen.banner(domain, place)?)
            .map_err(|why| Error::refused(Op::MatchKernel, domain.object(), why))?;
    }
    Ok(slide)
}

fn decide(image: &Anchors, live: Live, wanted: Slide) -> Result<i64, String> {
    if image.syscall.is_none() {
        return match wanted {
            Slide::Bytes(bytes) => Ok(bytes),
            Slide::Auto => {
                Err("the file does not say where entry_SYSCALL_64 is: give --slide none or a number"
                    .to_owned())
            }
        };
    }
    let found = image.slide(live).map(|slide| slide.bytes.cast_signed());
    match (found, wanted) {
        (Ok(slide), Slide::Auto) => Ok(slide),
        (Ok(slide), Slide::Bytes(bytes)) if slide == bytes => Ok(slide),
        (Ok(slide), Slide::Bytes(bytes)) => Err(format!(
            "slide {bytes:#x} was asked for, but MSR_LSTAR {:#x} says slide {slide:#x}",
            live.lstar
        )),
        (Err(SlideError::NotBooted), Slide::Bytes(bytes)) => Ok(bytes),
        (Err(e @ SlideError::NotBooted), Slide::Auto) => {
            Err(format!("{e}: wait until it has booted, or give --slide none or a number"))
        }
        (Err(e), _) => Err(e.to_string()),
    }
}

fn check_banner(image: Option<String>, place: u64, running: Option<String>) -> Result<(), String> {
    let running = running.ok_or_else(|| {
        format!(
            "the image is of \"{}\", but the guest has no kernel's banner at {place:#x}, where it would be",
            image.as_deref().unwrap_or_default()
        )
    })?;
    let image = Identity { banner: image, ..Identity::default() };
    image.check(&running).map(drop).map_err(|other| other.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANCHOR: u64 = 0xffff_ffff_81a0_0080;
    const FAULT: u64 = 0xffff_ffff_81a0_0b30;

    fn found(lstar: u64, page_fault: u64, wanted: Slide) -> Result<i64, String> {
        let image = Anchors { syscall: Some(ANCHOR), trampoline: false, page_fault: vec![FAULT] };
        decide(&image, Live { lstar, page_fault: Some(page_fault) }, wanted)
    }

    #[test]
    fn a_slide_is_a_multiple_of_2_mib_within_1_gib() {
        assert_eq!(found(ANCHOR, FAULT, Slide::Auto), Ok(0));
        assert_eq!(found(ANCHOR + 0x1a00_0000, FAULT + 0x1a00_0000, Slide::Auto), Ok(0x1a00_0000));
    }

    #[test]
    fn another_kernel_is_refused_and_an_early_one_asked_to_wait() {
        for (lstar, why) in
            [(0, "wait until it has booted"), (ANCHOR + 0x40, "is the image of the kernel that runs?")]
        {
            let error = found(lstar, FAULT, Slide::Auto).unwrap_err();
            assert!(error.contains(why), "{lstar:#x}: {error}");
        }
    }

    #[test]
    fn a_slide_that_is_asked_for_is_the_guests_or_refused_with_both() {
        let (lstar, fault) = (ANCHOR + 0x60_0000, FAULT + 0x60_0000);
        assert_eq!(found(lstar, fault, Slide::Bytes(0x60_0000)), Ok(0x60_0000));
        let error = found(lstar, fault, Slide::Bytes(0x20_0000)).unwrap_err();
        assert!(error.contains("slide 0x200000 was") && error.contains("says slide 0x600000"), "{error}");
        let error = found(lstar, FAULT, Slide::Bytes(0x60_0000)).unwrap_err();
        assert!(error.contains("slide 0x600000") && error.contains("slide 0x0"), "{error}");
        assert_eq!(found(0, 0, Slide::Bytes(0x20_0000)), Ok(0x20_0000), "not booted: as asked");
        let bare = |wanted| decide(&Anchors::default(), Live { lstar, page_fault: None }, wanted);
        assert_eq!(bare(Slide::Bytes(5)), Ok(5));
        assert!(bare(Slide::Auto).unwrap_err().contains("give --slide"));
    }

    #[test]
    fn another_banner_or_none_is_refused_with_both() {
        let image = || Some("Linux version 6.1.0 (a@b) #1".to_owned());
        assert_eq!(check_banner(image(), 16, image()), Ok(()));
        let error = check_banner(image(), 16, Some("Linux version 6.2.0 (a@b) #1".into())).unwrap_err();
        assert!(error.contains("6.1.0") && error.contains("6.2.0"), "{error}");
        let error = check_banner(image(), 0xff10, None).unwrap_err();
        assert!(error.contains("6.1.0") && error.contains("0xff10"), "{error}");
    }
}

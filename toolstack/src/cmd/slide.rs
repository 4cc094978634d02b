// SPDX-License-Identifier: GPL-3.0-only
//! KASLR: how far a running kernel is from its link-time addresses.
//!
//! slide = vCPU 0's MSR_LSTAR - address of entry_SYSCALL_64. Linux on x86-64 slides by multiples of
//! CONFIG_PHYSICAL_ALIGN, at least 2 MiB, within its image area of 1 GiB: anything else means that the image is not of
//! the kernel that runs. A PV kernel is started by the domain builder where it was linked.

use crate::cli::Slide;
use crate::hyper::safe::Xen;
use crate::hyper::safe::error::{Error, Op};
use crate::hyper::safe::types::{Domain, Kind};
use crate::rangefile::KernelRanges;

const ALIGN: i64 = 2 << 20;
const AREA: i64 = 1 << 30;

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
    if lstar == 0 {
        return Err("its kernel has not set MSR_LSTAR yet: wait until it has booted, or give --slide none or a number".into());
    }
    // Both are canonical kernel addresses, so the difference of 64-bit numbers is small and exact if they belong together.
    let slide = lstar.wrapping_sub(anchor).cast_signed();
    let facts = format!("MSR_LSTAR is {lstar:#x}, entry_SYSCALL_64 in the file {anchor:#x}");
    if !(0..AREA).contains(&slide) {
        return Err(format!(
            "{facts}: no KASLR slide is so large; is the file of the kernel that runs in it?"
        ));
    }
    if slide % ALIGN != 0 {
        return Err(format!(
            "{facts}: the difference {slide:#x} is not a multiple of 2 MiB as every KASLR slide is; \
             is the file of the kernel that runs in it?"
        ));
    }
    Ok(slide)
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
    fn another_kernel_is_refused() {
        let cases = [
            (0, "has not set MSR_LSTAR yet"),
            (ANCHOR + 0x40, "not a multiple of 2 MiB"),
            (ANCHOR + 0x1000, "not a multiple of 2 MiB"),
            (ANCHOR - 0x20_0000, "no KASLR slide is so large"),
            (ANCHOR + 0x4000_0000, "no KASLR slide is so large"),
            (0x7fff_0000_0000, "no KASLR slide is so large"),
        ];
        for (lstar, why) in cases {
            let error = from_lstar(lstar, ANCHOR).unwrap_err();
            assert!(error.contains(why), "{lstar:#x}: {error}");
        }
    }
}

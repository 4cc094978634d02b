// SPDX-License-Identifier: MIT OR Apache-2.0
//! The x86 boot protocol's header, as far as it leads to the packed kernel.
//!
//! Layout (Documentation/arch/x86/boot.rst): 0x1f1 `setup_sects` u8 (0 means 4), 0x202 "HdrS", 0x206 protocol version
//! u16, 0x248 `payload_offset` u32, 0x24c `payload_length` u32 (both since 2.08, Linux 2.6.26). The payload starts
//! payload_offset bytes after the protected-mode code, which starts at (setup_sects + 1) * 512.

use crate::bytes::{slice, u16_at, u32_at};
use crate::error::Error;

const FORM: &str = "bzImage";

/// Whether `data` begins with a boot protocol header.
pub(crate) fn is_bzimage(data: &[u8]) -> bool {
    data.get(0x202..0x206) == Some(b"HdrS")
}

/// The packed kernel inside.
pub(crate) fn payload(data: &[u8]) -> Result<&[u8], Error> {
    let protocol = u16_at(data, 0x206).ok_or_else(|| Error::damaged(FORM, "ends inside its setup header"))?;
    if protocol < 0x208 {
        let detail =
            format!("boot protocol {}.{:02} has no payload; 2.08 needed", protocol >> 8, protocol & 0xff);
        return Err(Error::damaged(FORM, detail));
    }
    let (Some(&sects), Some(offset), Some(length)) =
        (data.get(0x1f1), u32_at(data, 0x248), u32_at(data, 0x24c))
    else {
        return Err(Error::damaged(FORM, "ends inside its setup header"));
    };
    let sects = if sects == 0 { 4 } else { u64::from(sects) };
    let start = (sects + 1) * 512 + u64::from(offset);
    slice(data, start, u64::from(length)).ok_or_else(|| {
        let detail = format!("payload of {length} bytes at offset {start}, file of {} bytes", data.len());
        Error::damaged(FORM, detail)
    })
}

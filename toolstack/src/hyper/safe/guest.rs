// SPDX-License-Identifier: GPL-3.0-only
//! A guest's memory, by its kernel's virtual addresses: pages mapped read-only through libxenforeignmemory, page tables
//! walked as the processor does. What a guest says of itself is only ever compared or printed.

use super::call::{Errno, Silence};
use super::errno::{EFAULT, EINVAL};
use crate::hyper::raw;
use std::ptr::NonNull;

const PAGE: u64 = 4096;
/// A present entry of a page table; one that maps a large page; where an entry points (Intel SDM volume 3, 4-level paging).
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// Linux with page-table isolation: the kernel's top table is the page below the one that user mode runs with
/// (arch/x86/mm/pti.c, PTI_PGTABLE_SWITCH_BIT).
const USER_TABLE: u64 = 1 << 12;
const CR4_LA57: u64 = 1 << 12;

/// The registers of a vCPU in 64-bit mode that tell where its kernel is.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    /// Where its kernel takes system calls; 0 if it has not said so yet.
    pub lstar: u64,
    /// Its interrupt descriptor table.
    pub idt: u64,
    /// The top page table.
    pub cr3: u64,
    /// For the depth of the page tables.
    pub cr4: u64,
}

/// Physical address of a virtual one; `None` if it is not mapped. `entry` reads a page table's entry.
fn translate(
    cpu: &Cpu,
    address: u64,
    mut entry: impl FnMut(u64) -> Result<u64, Errno>,
) -> Result<Option<u64>, Errno> {
    let levels = if cpu.cr4 & CR4_LA57 == 0 { 4 } else { 5 };
    let mut table = cpu.cr3 & FRAME;
    for level in (0..levels).rev() {
        let shift = 12 + 9 * level;
        let found = entry(table + (address >> shift & 0x1ff) * 8)?;
        if found & PRESENT == 0 {
            return Ok(None);
        }
        let offset = (1u64 << shift) - 1;
        if level == 0 || (level <= 2 && found & LARGE != 0) {
            return Ok(Some((found & FRAME & !offset) | (address & offset)));
        }
        table = found & FRAME;
    }
    Ok(None)
}

/// What a failed read means.
pub fn meaning(errno: Errno) -> &'static str {
    match errno {
        EFAULT => "the guest has nothing mapped there",
        EINVAL => "not memory of the guest",
        _ => "dom0 could not map the guest's memory",
    }
}

/// An open libxenforeignmemory handle.
pub struct Memory(NonNull<raw::xenforeignmemory_handle>);

impl Memory {
    /// Opens the library.
    pub fn open(logger: &Silence) -> Result<Memory, Errno> {
        // SAFETY: the logger outlives the handle: `Xen` declares it after the handle.
        let handle = unsafe { raw::xenforeignmemory_open(logger.as_ptr(), 0) };
        NonNull::new(handle).map(Memory).ok_or_else(super::call::last_errno)
    }

    /// Copies guest-physical memory that does not cross a page's border.
    fn physical(&self, domid: u32, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        let offset = (address % PAGE) as usize;
        if offset + into.len() > PAGE as usize {
            return Err(EINVAL);
        }
        let (frame, mut error) = (address / PAGE, 0);
        // SAFETY: one page is asked for, with one frame number and room for one error; PROT_READ is 1 (mman.h of Linux).
        let page = unsafe { raw::xenforeignmemory_map(self.0.as_ptr(), domid, 1, 1, &frame, &mut error) };
        let page = NonNull::new(page.cast::<u8>()).ok_or_else(super::call::last_errno)?;
        if error == 0 {
            // SAFETY: a page is mapped at `page`, the part lies inside, and `into` is not in it. The guest may write to it
            // meanwhile: bytes are copied as they are, and any bytes are valid.
            unsafe {
                std::ptr::copy_nonoverlapping(page.as_ptr().add(offset), into.as_mut_ptr(), into.len())
            };
        }
        // SAFETY: mapped above, one page, unmapped once and not used after that.
        let _ = unsafe { raw::xenforeignmemory_unmap(self.0.as_ptr(), page.as_ptr().cast(), 1) };
        if error == 0 { Ok(()) } else { Err(error.abs()) }
    }

    fn translate(&self, domid: u32, cpu: &Cpu, address: u64) -> Result<Option<u64>, Errno> {
        translate(cpu, address, |place| {
            let mut bytes = [0; 8];
            self.physical(domid, place, &mut bytes)?;
            Ok(u64::from_le_bytes(bytes))
        })
    }

    /// Copies memory at a kernel's virtual address; EFAULT if it is not mapped.
    pub fn read(&self, domid: u32, cpu: &Cpu, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        // A vCPU that was in user mode has only the kernel's entry code in its tables.
        let kernel = Cpu { cr3: cpu.cr3 & !USER_TABLE, ..*cpu };
        let mut at = address;
        let mut rest = into;
        while !rest.is_empty() {
            let place = match self.translate(domid, cpu, at)? {
                None if cpu.cr3 & USER_TABLE != 0 => self.translate(domid, &kernel, at)?,
                place => place,
            };
            let here = rest.len().min((PAGE - at % PAGE) as usize);
            let (part, later) = rest.split_at_mut(here);
            self.physical(domid, place.ok_or(EFAULT)?, part)?;
            at = at.checked_add(here as u64).ok_or(EFAULT)?;
            rest = later;
        }
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: opened in `open`, closed once.
        let _ = unsafe { raw::xenforeignmemory_close(self.0.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn page_tables_are_walked_down_to_small_and_large_pages() {
        let address = 0xffff_ffff_8120_3456;
        let index = |level: u64| (address >> (12 + 9 * level) & 0x1ff) * 8;
        let mut memory = HashMap::from([
            (0x5000 + index(3), 0x6000 | PRESENT),
            (0x6000 + index(2), 0x7000 | PRESENT),
            (0x7000 + index(1), 0x8000 | PRESENT),
            (0x8000 + index(0), 0x8000_0000_0123_4000 | PRESENT),
        ]);
        let cpu = Cpu { lstar: 0, idt: 0, cr3: 0x5000 | 0x8000_0000_0000_0018, cr4: 0 };
        let walk = |memory: &HashMap<u64, u64>, cpu: &Cpu| {
            translate(cpu, address, |place| memory.get(&place).copied().ok_or(EFAULT))
        };
        assert_eq!(walk(&memory, &cpu), Ok(Some(0x0123_4456)));
        memory.insert(0x7000 + index(1), 0x0120_0000 | LARGE | PRESENT);
        assert_eq!(walk(&memory, &cpu), Ok(Some(0x0120_3456)));
        memory.insert(0x6000 + index(2), 0x4000_0000 | LARGE | PRESENT);
        assert_eq!(walk(&memory, &cpu), Ok(Some(0x4120_3456)));
        memory.insert(0x6000 + index(2), 0x7000);
        assert_eq!(walk(&memory, &cpu), Ok(None));
        assert_eq!(walk(&HashMap::new(), &cpu), Err(EFAULT));
        let deep = Cpu { cr3: 0x4000, cr4: CR4_LA57, ..cpu };
        memory.insert(0x4000 + index(4), 0x5000 | PRESENT);
        memory.insert(0x6000 + index(2), 0x7000 | PRESENT);
        assert_eq!(walk(&memory, &deep), Ok(Some(0x0120_3456)));
    }
}

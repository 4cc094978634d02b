// SPDX-License-Identifier: GPL-3.0-only
//! The few system calls the guest needs, safe to call. All `unsafe` of this crate is here.

use std::ffi::CString;
use std::io::{Error, Result};
use std::ptr::NonNull;

/// Mounts a pseudo file system of type `kind` on `target`, which is created.
pub fn mount(kind: &str, target: &str) -> Result<()> {
    std::fs::create_dir_all(target)?;
    let (kind, target) = (CString::new(kind)?, CString::new(target)?);
    // SAFETY: both strings are NUL-terminated and outlive the call; the data argument may be null.
    let status = unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    if status == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// Powers the machine off. Returns only on failure.
pub fn power_off() -> Error {
    // SAFETY: sync and reboot take no pointers.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    Error::last_os_error()
}

/// CPUs that are online.
pub fn cpus() -> usize {
    // SAFETY: sysconf takes no pointer.
    let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    usize::try_from(count).unwrap_or(1).max(1)
}

/// Binds the calling thread to `cpu`.
pub fn pin_to(cpu: usize) -> Result<()> {
    // SAFETY: cpu_set_t is a plain bit array, for which all zeroes is a value; CPU_SET checks its bounds.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        set
    };
    // SAFETY: `set` is live and its size is passed; pid 0 is the calling thread.
    let status = unsafe { libc::sched_setaffinity(0, std::mem::size_of_val(&set), &set) };
    if status == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is live and writable; the ids used exist on every Linux.
    unsafe { libc::clock_gettime(id, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// CLOCK_REALTIME in nanoseconds: under Xen the same in every guest.
pub fn shared_ns() -> u64 {
    clock(libc::CLOCK_REALTIME)
}

/// CLOCK_MONOTONIC in nanoseconds: for intervals.
pub fn monotonic_ns() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// One anonymous private page, unmapped on drop.
pub struct Page {
    address: NonNull<libc::c_void>,
    size: usize,
}

impl Page {
    /// Maps a readable and writable page.
    pub fn new() -> Result<Page> {
        // SAFETY: sysconf takes no pointer.
        let size = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no existing memory.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        let address = NonNull::new(address).ok_or_else(|| Error::other("mmap gave page 0"))?;
        Ok(Page { address, size })
    }

    /// Makes the page writable and writes to it, so that its PTE is present, dirty and in the TLB.
    pub fn touch(&mut self, value: u8) -> Result<()> {
        self.protect(libc::PROT_READ | libc::PROT_WRITE)?;
        // SAFETY: the page is ours alone (&mut), mapped, and has just been made writable.
        unsafe { self.address.cast::<u8>().as_ptr().write_volatile(value) };
        Ok(())
    }

    /// Takes write permission away: the shootdown.
    pub fn write_protect(&mut self) -> Result<()> {
        self.protect(libc::PROT_READ)
    }

    fn protect(&mut self, protection: libc::c_int) -> Result<()> {
        // SAFETY: the range is exactly our own mapping; nobody holds a reference into it.
        let status = unsafe { libc::mprotect(self.address.as_ptr(), self.size, protection) };
        if status == 0 { Ok(()) } else { Err(Error::last_os_error()) }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the range is exactly our own mapping and is not used after drop.
        unsafe { libc::munmap(self.address.as_ptr(), self.size) };
    }
}

// SAFETY: the page is reached through &mut self only and belongs to no thread.
unsafe impl Send for Page {}

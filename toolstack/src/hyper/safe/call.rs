// SPDX-License-Identifier: GPL-3.0-only
//! Hypercalls that libxenctrl has no call for, through libxencall: XEN_DOMCTL_scheduler_op and
//! XEN_SYSCTL_scheduler_op of the microslice scheduler. Errors here are bare errnos; [`super::Xen`] names the object.

use crate::hyper::raw;
use std::ptr::{self, NonNull};

/// An errno.
pub type Errno = i32;

pub(super) fn last_errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// A logger of the Xen libraries that says nothing: what they would print, our errors say with the object's name.
pub struct Silence(NonNull<raw::xentoollog_logger>);

impl Silence {
    /// Makes one; the libraries take it by pointer and must not outlive it.
    pub fn new() -> Result<Silence, Errno> {
        let file = c"/dev/null";
        // SAFETY: both strings are NUL-terminated literals.
        let file = unsafe { raw::fopen(file.as_ptr(), c"w".as_ptr()) };
        if file.is_null() {
            return Err(last_errno());
        }
        // SAFETY: `file` is an open stream; the logger does not close it, and it lives as long as the process.
        let logger =
            unsafe { raw::xtl_createlogger_stdiostream(file, raw::xentoollog_level_XTL_CRITICAL, 0) };
        NonNull::new(logger.cast()).map(Silence).ok_or_else(last_errno)
    }

    /// For a library's open call.
    pub fn as_ptr(&self) -> *mut raw::xentoollog_logger {
        self.0.as_ptr()
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once; `Xen` drops the handles that use it before it.
        unsafe { raw::xtl_logger_destroy(self.as_ptr()) }
    }
}

/// An open libxencall handle.
pub struct Call(NonNull<raw::xencall_handle>);

impl Call {
    /// Opens /dev/xen/privcmd.
    pub fn open(logger: &Silence) -> Result<Call, Errno> {
        // SAFETY: the logger outlives the handle: `Xen` declares it after the handle.
        let handle = unsafe { raw::xencall_open(logger.as_ptr(), 0) };
        NonNull::new(handle).map(Call).ok_or_else(last_errno)
    }

    /// `len` zeroed elements that the hypervisor can read and write.
    pub fn buffer<T: Plain>(&self, len: usize) -> Result<Buffer<'_, T>, Errno> {
        let bytes = size_of::<T>().checked_mul(len.max(1)).ok_or(super::errno::E2BIG)?;
        // SAFETY: the handle is open as long as `self` lives.
        let data = unsafe { raw::xencall_alloc_buffer(self.0.as_ptr(), bytes) };
        let data = NonNull::new(data.cast::<T>()).ok_or_else(last_errno)?;
        // SAFETY: the buffer is ours, page aligned and at least `bytes` long; `Plain` types are valid when zero.
        unsafe { ptr::write_bytes(data.as_ptr().cast::<u8>(), 0, bytes) };
        Ok(Buffer { call: self, data, len })
    }

    /// XEN_DOMCTL_scheduler_op, sub-command `cmd`, on domain `domid`. `op.u` is the parameter and, on success, the result.
    pub fn domctl(&self, domid: u32, cmd: u32, u: &mut DomctlUnion) -> Result<(), Errno> {
        let mut arg = self.buffer::<raw::xen_domctl>(1)?;
        let domctl = arg.first();
        domctl.cmd = raw::XEN_DOMCTL_scheduler_op;
        domctl.interface_version = raw::XEN_DOMCTL_INTERFACE_VERSION;
        domctl.domain = u16::try_from(domid).map_err(|_| super::errno::ESRCH)?;
        domctl.u.scheduler_op =
            raw::xen_domctl_scheduler_op { sched_id: raw::XEN_SCHEDULER_MICROSLICE, cmd, u: *u };
        self.one(raw::__HYPERVISOR_domctl, &arg)?;
        // SAFETY: scheduler_op is the member that was written, and every bit pattern of it is valid.
        *u = unsafe { arg.first().u.scheduler_op.u };
        Ok(())
    }

    /// XEN_SYSCTL_scheduler_op, sub-command `cmd`, on cpupool `pool`. `u` is the parameter and, on success, the result.
    pub fn sysctl(&self, pool: u32, cmd: u32, u: &mut SysctlUnion) -> Result<(), Errno> {
        let mut arg = self.buffer::<raw::xen_sysctl>(1)?;
        let sysctl = arg.first();
        sysctl.cmd = raw::XEN_SYSCTL_scheduler_op;
        sysctl.interface_version = raw::XEN_SYSCTL_INTERFACE_VERSION;
        sysctl.u.scheduler_op = raw::xen_sysctl_scheduler_op {
            cpupool_id: pool,
            sched_id: raw::XEN_SCHEDULER_MICROSLICE,
            cmd,
            u: *u,
        };
        self.one(raw::__HYPERVISOR_sysctl, &arg)?;
        // SAFETY: scheduler_op is the member that was written, and every bit pattern of it is valid.
        *u = unsafe { arg.first().u.scheduler_op.u };
        Ok(())
    }

    fn one<T: Plain>(&self, hypercall: u32, arg: &Buffer<'_, T>) -> Result<(), Errno> {
        // SAFETY: the handle is open; the argument is a hypercall buffer of the type the hypercall expects, and the
        // guest handles in it point to hypercall buffers that the caller of `domctl` or `sysctl` holds.
        let rc = unsafe { raw::xencall1(self.0.as_ptr(), hypercall, arg.data.as_ptr() as u64) };
        if rc < 0 { Err(last_errno()) } else { Ok(()) }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // SAFETY: opened in `open`, closed once; buffers borrow `self` and are gone. A failed close leaks a descriptor.
        let _ = unsafe { raw::xencall_close(self.0.as_ptr()) };
    }
}

/// The parameters of a domctl on the scheduler.
pub type DomctlUnion = raw::xen_domctl_scheduler_op__bindgen_ty_1;
/// The parameters of a sysctl on the scheduler.
pub type SysctlUnion = raw::xen_sysctl_scheduler_op__bindgen_ty_1;

/// Types that the hypervisor may fill: C structures of integers and addresses, valid as any bit pattern.
///
/// # Safety
/// The type has no invalid bit pattern.
pub unsafe trait Plain: Copy {}
// SAFETY: integers, pointers and unions of them.
unsafe impl Plain for raw::xen_domctl {}
// SAFETY: as above.
unsafe impl Plain for raw::xen_sysctl {}
// SAFETY: as above.
unsafe impl Plain for raw::xen_domctl_microslice_range {}
// SAFETY: as above.
unsafe impl Plain for raw::xen_domctl_microslice_stats {}
// SAFETY: as above.
unsafe impl Plain for raw::xen_sysctl_microslice_record {}
// SAFETY: as above.
unsafe impl Plain for u8 {}

/// Memory shared with the hypervisor for the time of a hypercall.
pub struct Buffer<'a, T: Plain> {
    call: &'a Call,
    data: NonNull<T>,
    len: usize,
}

impl<T: Plain> Buffer<'_, T> {
    /// The address for a guest handle; null for an empty buffer.
    pub fn handle(&self) -> *mut T {
        if self.len == 0 { ptr::null_mut() } else { self.data.as_ptr() }
    }

    /// The elements.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: `len` initialised elements that only this buffer owns; no hypercall runs while they are borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }

    /// The first element; a buffer always has room for one.
    pub fn first(&mut self) -> &mut T {
        // SAFETY: as above; `Call::buffer` allocates and zeroes at least one element.
        unsafe { self.data.as_mut() }
    }
}

impl<T: Plain> Drop for Buffer<'_, T> {
    fn drop(&mut self) {
        // SAFETY: allocated from this open handle, freed once.
        unsafe { raw::xencall_free_buffer(self.call.0.as_ptr(), self.data.as_ptr().cast()) }
    }
}

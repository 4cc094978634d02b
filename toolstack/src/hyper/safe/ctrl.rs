// SPDX-License-Identifier: GPL-3.0-only
//! What libxenctrl has calls for: cpupools, domains, a vCPU's context, Xen's version. Bare errnos, as in `call`.

use super::call::{Errno, Silence, last_errno};
use super::guest::Cpu;
use super::types::{Domain, Kind, sched_name};
use crate::hyper::raw;
use std::mem::offset_of;
use std::ptr::{self, NonNull};
use xenctrl_sys as xc;

/// HVM_SAVE_CODE(CPU): the headers hide the number in the length of an array, `c`.
const HVM_SAVE_CODE_CPU: u16 =
    (offset_of!(raw::__HVM_SAVE_TYPE_CPU, cpt) - offset_of!(raw::__HVM_SAVE_TYPE_CPU, c)) as u16;
/// XENVER_version of xen/include/public/version.h: fixed since Xen 3.0, and with no ABI version.
const XENVER_VERSION: i32 = 0;
/// Domains per hypercall.
const BATCH: usize = 256;

/// A cpupool as libxenctrl describes it.
pub struct RawPool {
    /// Its id.
    pub id: u32,
    /// Its scheduler's name.
    pub scheduler: String,
    /// Its pCPUs.
    pub cpus: Vec<u32>,
    /// Domains in it.
    pub domains: u32,
}

/// An open libxenctrl handle.
pub struct Ctrl(NonNull<xc::xc_interface>);

impl Ctrl {
    /// Opens the library.
    pub fn open(logger: &Silence) -> Result<Ctrl, Errno> {
        // SAFETY: the logger outlives the handle: `Xen` declares it after the handle. Both crates bind the same type.
        let handle = unsafe { xc::xc_interface_open(logger.as_ptr().cast(), logger.as_ptr().cast(), 0) };
        NonNull::new(handle).map(Ctrl).ok_or_else(last_errno)
    }

    fn ptr(&self) -> *mut xc::xc_interface {
        self.0.as_ptr()
    }

    /// The running Xen's release, "4.20".
    pub fn version(&self) -> Result<String, Errno> {
        // SAFETY: this sub-command takes no argument.
        let version = unsafe { xc::xc_version(self.ptr(), XENVER_VERSION, ptr::null_mut()) };
        if version < 0 { Err(last_errno()) } else { Ok(format!("{}.{}", version >> 16, version & 0xffff)) }
    }

    /// Bytes in a bitmap of the host's pCPUs.
    pub fn cpumap_size(&self) -> Result<usize, Errno> {
        // SAFETY: the handle is open.
        let size = unsafe { xc::xc_get_cpumap_size(self.ptr()) };
        usize::try_from(size).ok().filter(|&s| s > 0).ok_or_else(last_errno)
    }

    /// The first cpupool whose id is at least `id`.
    pub fn pool_from(&self, id: u32) -> Result<Option<RawPool>, Errno> {
        let bytes = self.cpumap_size()?;
        // SAFETY: the handle is open.
        let info = unsafe { xc::xc_cpupool_getinfo(self.ptr(), id) };
        let Some(info) = NonNull::new(info) else {
            let errno = last_errno();
            return if errno == super::errno::ENOENT { Ok(None) } else { Err(errno) };
        };
        // SAFETY: a record from xc_cpupool_getinfo, whose cpumap has the host's size.
        let (record, map) = unsafe {
            let record = *info.as_ptr();
            (record, std::slice::from_raw_parts(record.cpumap, bytes))
        };
        let pool = RawPool {
            id: record.cpupool_id,
            scheduler: sched_name(record.sched_id),
            cpus: bits(map),
            domains: record.n_dom,
        };
        // SAFETY: obtained from xc_cpupool_getinfo, freed once; `map` is not used again.
        unsafe { xc::xc_cpupool_infofree(self.ptr(), info.as_ptr()) };
        Ok(Some(pool))
    }

    /// All domains, by rising id, without names.
    pub fn domains(&self) -> Result<Vec<Domain>, Errno> {
        let mut domains: Vec<Domain> = Vec::new();
        loop {
            let from = domains.last().map_or(0, |d| d.id + 1);
            let mut infos = vec![xc::xc_domaininfo_t::default(); BATCH];
            // SAFETY: `infos` has BATCH elements.
            let n = unsafe { xc::xc_domain_getinfolist(self.ptr(), from, BATCH as u32, infos.as_mut_ptr()) };
            let n = usize::try_from(n).map_err(|_| last_errno())?;
            domains.extend(infos.iter().take(n).map(domain));
            if n < BATCH {
                return Ok(domains);
            }
        }
    }

    /// One domain, without its name; none if it is not there.
    pub fn domain(&self, domid: u32) -> Result<Option<Domain>, Errno> {
        let mut info = xc::xc_domaininfo_t::default();
        // SAFETY: `info` is one element.
        let n = unsafe { xc::xc_domain_getinfolist(self.ptr(), domid, 1, &raw mut info) };
        let n = usize::try_from(n).map_err(|_| last_errno())?;
        // Asked for one that is not there, Xen gives the next.
        Ok(Some(domain(&info)).filter(|found| n == 1 && found.id == domid))
    }

    /// How long each pCPU of the host has been idle, in ns.
    pub fn idle_ns(&self) -> Result<Vec<u64>, Errno> {
        let most = self.cpumap_size()? * 8;
        let mut infos = vec![xc::xc_cpuinfo_t::default(); most];
        let mut n = 0;
        let room = i32::try_from(most).unwrap_or(i32::MAX);
        // SAFETY: `infos` has at least `room` elements.
        let rc = unsafe { xc::xc_getcpuinfo(self.ptr(), room, infos.as_mut_ptr(), &raw mut n) };
        if rc < 0 {
            return Err(last_errno());
        }
        Ok(infos.iter().take(usize::try_from(n).unwrap_or(0)).map(|info| info.idletime).collect())
    }

    /// Of a vCPU of an HVM or PVH domain.
    pub fn cpu(&self, domid: u32, vcpu: u16) -> Result<Cpu, Errno> {
        let mut context = raw::hvm_hw_cpu::default();
        // SAFETY: the buffer is one hvm_hw_cpu, which is what the type code says.
        let rc = unsafe {
            xc::xc_domain_hvm_getcontext_partial(
                self.ptr(),
                domid,
                HVM_SAVE_CODE_CPU,
                vcpu,
                (&raw mut context).cast(),
                size_of::<raw::hvm_hw_cpu>() as u32,
            )
        };
        if rc < 0 {
            return Err(last_errno());
        }
        Ok(Cpu { lstar: context.msr_lstar, idt: context.idtr_base, cr3: context.cr3, cr4: context.cr4 })
    }
}

impl Drop for Ctrl {
    fn drop(&mut self) {
        // SAFETY: opened in `open`, closed once.
        let _ = unsafe { xc::xc_interface_close(self.ptr()) };
    }
}

fn domain(info: &xc::xc_domaininfo_t) -> Domain {
    let hvm = info.flags & xc::XEN_DOMINF_hvm_guest != 0;
    Domain {
        id: info.domain.into(),
        name: None,
        kind: if hvm { Kind::Hvm } else { Kind::Pv },
        vcpus: info.nr_online_vcpus,
        max_vcpus: info.max_vcpu_id.wrapping_add(1),
        cpu_ns: info.cpu_time,
        pool: info.cpupool,
        dying: info.flags & xc::XEN_DOMINF_dying != 0,
    }
}

/// The numbers of the set bits.
pub fn bits(map: &[u8]) -> Vec<u32> {
    (0u32..)
        .zip(map.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1)))
        .filter(|b| b.1 == 1)
        .map(|b| b.0)
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_vcpu_context_has_the_type_code_of_4_20() {
        assert_eq!(super::HVM_SAVE_CODE_CPU, 2);
    }

    #[test]
    fn bits_are_numbered_from_the_lowest_of_the_first_byte() {
        assert_eq!(super::bits(&[0b1000_0001, 0, 0b10]), [0, 7, 17]);
        assert!(super::bits(&[]).is_empty());
    }
}

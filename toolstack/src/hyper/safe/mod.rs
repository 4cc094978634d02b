// SPDX-License-Identifier: GPL-3.0-only
//! The hypervisor and xenstore as types. Owns all `unsafe` of this package; refuses parameters that cannot be right
//! before any hypercall. Every write is one hypercall that Xen applies as a whole or not at all.

mod call;
mod ctrl;
pub mod errno;
pub mod error;
mod guest;
mod names;
mod ranges;
pub use ranges::check as check_ranges;
mod trace;
pub mod types;
pub use trace::Trace;

use crate::hyper::raw;
use call::{Call, DomctlUnion, Errno, Silence, SysctlUnion};
use ctrl::{Ctrl, RawPool, bits};
use error::{Cause, Error, Object, Op};
use guest::Memory;
use microslice_symtab::kaslr::{Live, PAGE_FAULT_GATE, gate_address};
use microslice_symtab::{BANNER_BYTES, banner_in};
use names::Names;
use std::cell::OnceCell;
use types::{Action, Domain, MICROSLICE, Policy, Pool, Schedule, Share, Sizing, Stats};

/// Most ranges that a domain may have.
pub const MAX_RANGES: usize = raw::XEN_DOMCTL_MICROSLICE_MAX_RANGES as usize;

/// The way to the hypervisor. Fields are dropped in this order: the handles before the logger they use.
pub struct Xen {
    call: Call,
    ctrl: Ctrl,
    memory: OnceCell<Memory>,
    names: Names,
    _logger: Silence,
}

impl Xen {
    /// Opens it, or says what this machine or this user lacks.
    pub fn open() -> Result<Xen, Error> {
        let fail = |cause| Error { op: Op::Open, object: Object::Host, cause };
        probe_device().map_err(fail)?;
        let logger = Silence::new().map_err(|e| fail(Cause::System(e)))?;
        let call = Call::open(&logger).map_err(|e| fail(Cause::System(e)))?;
        let ctrl = Ctrl::open(&logger).map_err(|e| fail(Cause::System(e)))?;
        Ok(Xen { call, ctrl, memory: OnceCell::new(), names: Names::default(), _logger: logger })
    }

    /// Names the object of an errno.
    fn fail(&self, op: Op, object: Object, errno: Errno) -> Error {
        Error::xen(op, object, errno, || self.ctrl.version().ok())
    }

    /// All cpupools; of those under microslice with parameters and counters.
    pub fn pools(&self) -> Result<Vec<Pool>, Error> {
        let mut pools = Vec::new();
        let mut from = 0;
        let fail = |e| self.fail(Op::ListPools, Object::Host, e);
        while let Some(raw) = self.ctrl.pool_from(from).map_err(fail)? {
            let next = raw.id.checked_add(1);
            pools.push(self.pool(raw)?);
            let Some(next) = next else { break };
            from = next;
        }
        Ok(pools)
    }

    fn pool(&self, raw: RawPool) -> Result<Pool, Error> {
        let name = self.names.pool(raw.id).ok().flatten();
        let name = name.unwrap_or_else(|| format!("Pool-{}", raw.id));
        let schedule = if raw.scheduler == MICROSLICE {
            Some(self.schedule(&Object::Pool(raw.id, name.clone()), raw.id)?)
        } else {
            None
        };
        Ok(Pool {
            id: raw.id,
            name,
            scheduler: raw.scheduler,
            cpus: raw.cpus,
            domains: raw.domains,
            schedule,
        })
    }

    /// The cpupool of that name or number.
    pub fn find_pool(&self, text: &str) -> Result<Pool, Error> {
        let pools = self.pools()?;
        let by_name = pools.iter().find(|p| p.name == text);
        let found = by_name.or_else(|| pools.iter().find(|p| text.parse() == Ok(p.id)));
        let unknown =
            || Error { op: Op::LookUp, object: Object::PoolNamed(text.into()), cause: Cause::Unknown };
        found.cloned().ok_or_else(unknown)
    }

    fn schedule(&self, object: &Object, id: u32) -> Result<Schedule, Error> {
        let fail = |e| self.fail(Op::ReadPool, object.clone(), e);
        let bytes = self.ctrl.cpumap_size().map_err(fail)?;
        let mut map = self.call.buffer::<u8>(bytes).map_err(fail)?;
        let mut schedule = raw::xen_sysctl_microslice_schedule::default();
        schedule.micro_cpus.bitmap.p = map.handle();
        schedule.micro_cpus.nr_bits = u32::try_from(bytes * 8).unwrap_or(u32::MAX);
        let mut u = SysctlUnion { sched_microslice: schedule };
        self.call.sysctl(id, raw::XEN_SYSCTL_SCHEDOP_getinfo, &mut u).map_err(fail)?;
        // SAFETY: the member this sub-command returns; any bits are valid.
        let schedule = unsafe { u.sched_microslice };
        Ok(Schedule {
            slice_us: schedule.slice_us,
            micro_slice_us: schedule.micro_slice_us,
            ratelimit_us: schedule.ratelimit_us,
            grace_us: schedule.grace_us,
            nr_micro: schedule.nr_micro,
            reserve: schedule.reserve != 0,
            sizing: Sizing::from_number(schedule.sizing).ok_or_else(|| fail(errno::EINVAL))?,
            min_micro: schedule.min_micro,
            max_micro: schedule.max_micro,
            cur_micro: schedule.cur_micro,
            nr_cpus: schedule.nr_cpus,
            nr_groups: schedule.nr_groups,
            micro_cpus: bits(map.as_mut_slice()),
            micro_runs: schedule.micro_runs,
            micro_ns: schedule.micro_ns,
            micro_stay_max_ns: schedule.micro_stay_max_ns,
            moves: schedule.moves,
            reached: schedule.reached,
            rejected: schedule.rejected,
        })
    }

    /// Applies the parameters of `wanted` to `pool` as a whole, and reads the result back.
    pub fn set_pool(&self, pool: &Pool, wanted: &Schedule) -> Result<Pool, Error> {
        let object = Object::Pool(pool.id, pool.name.clone());
        check_schedule(wanted, pool.schedule.as_ref())
            .map_err(|why| Error::refused(Op::SetPool, object.clone(), why))?;
        let schedule = raw::xen_sysctl_microslice_schedule {
            slice_us: wanted.slice_us,
            micro_slice_us: wanted.micro_slice_us,
            ratelimit_us: wanted.ratelimit_us,
            nr_micro: wanted.nr_micro,
            grace_us: wanted.grace_us,
            reserve: u32::from(wanted.reserve),
            sizing: wanted.sizing.number(),
            min_micro: wanted.min_micro,
            max_micro: wanted.max_micro,
            ..Default::default()
        };
        let mut u = SysctlUnion { sched_microslice: schedule };
        let set = self.call.sysctl(pool.id, raw::XEN_SYSCTL_SCHEDOP_putinfo, &mut u);
        set.map_err(|e| self.fail(Op::SetPool, object.clone(), e))?;
        Ok(Pool { schedule: Some(self.schedule(&object, pool.id)?), ..pool.clone() })
    }

    /// How long each pCPU of the host has been idle, in ns, by its number.
    pub fn idle_ns(&self) -> Result<Vec<u64>, Error> {
        self.ctrl.idle_ns().map_err(|e| self.fail(Op::ReadIdle, Object::Host, e))
    }

    /// All domains, with their names where xenstore has them.
    pub fn domains(&self) -> Result<Vec<Domain>, Error> {
        let mut domains = self.ctrl.domains().map_err(|e| self.fail(Op::ListDomains, Object::Host, e))?;
        for domain in &mut domains {
            domain.name = self.names.domain(domain.id).ok().flatten();
        }
        Ok(domains)
    }

    /// The numbers of all domains that are not being destroyed.
    pub fn domain_ids(&self) -> Result<Vec<u32>, Error> {
        let domains = self.ctrl.domains().map_err(|e| self.fail(Op::ListDomains, Object::Host, e))?;
        Ok(domains.iter().filter(|domain| !domain.dying).map(|domain| domain.id).collect())
    }

    /// A domain by its number; none if it is not there.
    pub fn domain(&self, id: u32) -> Result<Option<Domain>, Error> {
        let found = self.ctrl.domain(id).map_err(|e| self.fail(Op::LookUp, Object::Domain(id, None), e))?;
        Ok(found.map(|domain| Domain { name: self.names.domain(id).ok().flatten(), ..domain }))
    }

    /// The domain of that number or name. Like `xl`, a number is never taken for a name.
    pub fn find_domain(&self, text: &str) -> Result<Domain, Error> {
        let fail = |cause| Error { op: Op::LookUp, object: Object::DomainNamed(text.into()), cause };
        let domains = self.domains()?;
        let by_id = text.parse::<u32>().ok();
        let found = domains.iter().find(|d| by_id.map_or(d.name.as_deref() == Some(text), |id| d.id == id));
        match found {
            Some(domain) => Ok(domain.clone()),
            // Without xenstore nothing has a name: that, not the name, is the cause.
            None if by_id.is_none() => match self.names.domain(0) {
                Err(e) => Err(fail(Cause::Store(e))),
                Ok(_) => Err(fail(Cause::Unknown)),
            },
            None => Err(fail(Cause::Unknown)),
        }
    }

    /// Fails unless the domain's cpupool is under microslice.
    pub fn require_microslice(&self, op: Op, domain: &Domain) -> Result<(), Error> {
        let pool = self.ctrl.pool_from(domain.pool).map_err(|e| self.fail(op, domain.object(), e))?;
        match pool.filter(|p| p.id == domain.pool) {
            Some(pool) if pool.scheduler != MICROSLICE => {
                Err(Error { op, object: domain.object(), cause: Cause::OtherScheduler(pool.scheduler) })
            }
            _ => Ok(()),
        }
    }

    fn domctl(&self, op: Op, domain: &Domain, cmd: u32, u: &mut DomctlUnion) -> Result<(), Error> {
        self.call.domctl(domain.id, cmd, u).map_err(|e| self.fail(op, domain.object(), e))
    }

    /// A domain's weight and cap.
    pub fn share(&self, domain: &Domain) -> Result<Share, Error> {
        let mut u = DomctlUnion { microslice: raw::xen_domctl_sched_microslice::default() };
        self.domctl(Op::ReadDomain, domain, raw::XEN_DOMCTL_SCHEDOP_getinfo, &mut u)?;
        // SAFETY: the member this sub-command returns; any bits are valid.
        let raw = unsafe { u.microslice };
        Ok(Share { weight: raw.weight, cap: raw.cap })
    }

    /// Sets both.
    pub fn set_share(&self, domain: &Domain, share: Share) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::refused(Op::SetDomain, domain.object(), why));
        if share.weight == 0 {
            return refuse("weight 0: expected 1 to 65535".into());
        }
        let most = domain.max_vcpus.saturating_mul(100);
        if u32::from(share.cap) > most {
            return refuse(format!(
                "cap {}: expected 0 to {most} for its {} vCPUs",
                share.cap, domain.max_vcpus
            ));
        }
        let mut u = DomctlUnion {
            microslice: raw::xen_domctl_sched_microslice { weight: share.weight, cap: share.cap },
        };
        self.domctl(Op::SetDomain, domain, raw::XEN_DOMCTL_SCHEDOP_putinfo, &mut u)
    }

    /// A domain's row of actions.
    pub fn policy(&self, domain: &Domain) -> Result<Policy, Error> {
        let mut u = DomctlUnion { microslice_policy: raw::xen_domctl_sched_microslice_policy::default() };
        self.domctl(Op::ReadDomain, domain, raw::XEN_DOMCTL_SCHEDOP_getpolicy, &mut u)?;
        // SAFETY: the member this sub-command returns; any bits are valid.
        let raw = unsafe { u.microslice_policy };
        Policy::from_numbers(raw.action)
            .ok_or_else(|| self.fail(Op::ReadDomain, domain.object(), errno::EINVAL))
    }

    /// Sets the row.
    pub fn set_policy(&self, domain: &Domain, policy: Policy) -> Result<(), Error> {
        let only = "action grace: fits preemption only";
        if [policy.ipi_wait, policy.lock_wait, policy.event].contains(&Action::Grace) {
            return Err(Error::refused(Op::SetDomain, domain.object(), only));
        }
        let mut u = DomctlUnion {
            microslice_policy: raw::xen_domctl_sched_microslice_policy { action: policy.numbers(), pad: 0 },
        };
        self.domctl(Op::SetDomain, domain, raw::XEN_DOMCTL_SCHEDOP_putpolicy, &mut u)
    }

    /// A domain's counters.
    pub fn stats(&self, domain: &Domain) -> Result<Stats, Error> {
        let fail = |e| self.fail(Op::ReadStats, domain.object(), e);
        let mut stats = self.call.buffer::<raw::xen_domctl_microslice_stats>(1).map_err(fail)?;
        let mut u = DomctlUnion { microslice_stats: raw::xen_domctl_sched_microslice_getstats::default() };
        u.microslice_stats.stats.p = stats.handle();
        self.domctl(Op::ReadStats, domain, raw::XEN_DOMCTL_SCHEDOP_getstats, &mut u)?;
        Ok(Stats::from(&*stats.first()))
    }

    /// Where vCPU 0 of the domain takes system calls; 0 if its kernel has not said so yet.
    pub fn lstar(&self, domain: &Domain) -> Result<u64, Error> {
        Ok(self.cpu(domain)?.lstar)
    }

    /// The same, and where it takes page faults, which its memory says.
    pub fn kernel_entries(&self, domain: &Domain) -> Result<Live, Error> {
        let cpu = self.cpu(domain)?;
        if cpu.lstar == 0 {
            return Ok(Live { lstar: 0, page_fault: None });
        }
        let mut gate = [0; 16];
        self.read(domain, "its page fault's gate", &mut gate, |cpu| cpu.idt.wrapping_add(PAGE_FAULT_GATE))?;
        Ok(Live { lstar: cpu.lstar, page_fault: gate_address(gate) })
    }

    /// The banner at an address of the domain's kernel; `None` if something else is there.
    pub fn banner(&self, domain: &Domain, address: u64) -> Result<Option<String>, Error> {
        let mut memory = [0; BANNER_BYTES];
        self.read(domain, "its kernel's banner", &mut memory, |_| address)?;
        Ok(banner_in(&memory))
    }

    /// Reads memory by the page tables of vCPU 0. They may be freed while they are walked: it is tried anew a few times.
    fn read(
        &self,
        domain: &Domain,
        what: &str,
        into: &mut [u8],
        place: impl Fn(&guest::Cpu) -> u64,
    ) -> Result<(), Error> {
        const TRIES: usize = 5;
        let mut failed = None;
        for _ in 0..TRIES {
            let cpu = self.cpu(domain)?;
            match self.memory().and_then(|memory| memory.read(domain.id, &cpu, place(&cpu), into)) {
                Ok(()) => return Ok(()),
                Err(errno) => failed = Some((place(&cpu), errno)),
            }
        }
        let (at, errno) = failed.unwrap_or_default();
        let why =
            format!("{what} at {at:#x} cannot be read: {}: {}", errno::name(errno), guest::meaning(errno));
        Err(Error::refused(Op::ReadGuest, domain.object(), why))
    }

    /// Opened by the first that needs it.
    fn memory(&self) -> Result<&Memory, Errno> {
        if let Some(memory) = self.memory.get() {
            return Ok(memory);
        }
        let memory = Memory::open(&self._logger)?;
        Ok(self.memory.get_or_init(|| memory))
    }

    fn cpu(&self, domain: &Domain) -> Result<guest::Cpu, Error> {
        self.ctrl.cpu(domain.id, 0).map_err(|e| self.fail(Op::ReadSlide, domain.object(), e))
    }
}

impl Domain {
    /// For errors about it.
    pub fn object(&self) -> Object {
        Object::Domain(self.id, self.name.clone())
    }
}

/// What can be known before the hypercall; Xen checks all of it again. The number of micro cores counts only if it is to
/// change: at boot it may have been asked for more than there are pCPUs, and then all else can still be set.
fn check_schedule(wanted: &Schedule, now: Option<&Schedule>) -> Result<(), String> {
    let (min, max) = (raw::XEN_SYSCTL_MICROSLICE_SLICE_MIN_US, raw::XEN_SYSCTL_MICROSLICE_SLICE_MAX_US);
    if !(min..=max).contains(&wanted.slice_us) {
        return Err(format!("normal slice {} us: expected {min} us to {max} us", wanted.slice_us));
    }
    let min = raw::XEN_SYSCTL_MICROSLICE_MICRO_MIN_US;
    if !(min..=wanted.slice_us).contains(&wanted.micro_slice_us) {
        let (micro, max) = (wanted.micro_slice_us, wanted.slice_us);
        return Err(format!("micro slice {micro} us: expected {min} us to the normal slice, {max} us"));
    }
    let min = raw::XEN_SYSCTL_MICROSLICE_GRACE_MIN_US;
    if !(min..=wanted.slice_us).contains(&wanted.grace_us) {
        let (grace, max) = (wanted.grace_us, wanted.slice_us);
        return Err(format!("grace {grace} us: expected {min} us to the normal slice, {max} us"));
    }
    if wanted.min_micro > wanted.max_micro {
        let (min, max) = (wanted.min_micro, wanted.max_micro);
        return Err(format!("{min} micro cores at least and {max} at most"));
    }
    let same = now.is_some_and(|now| now.nr_micro == wanted.nr_micro);
    if !same && wanted.nr_micro >= wanted.nr_cpus {
        let (n, cpus) = (wanted.nr_micro, wanted.nr_cpus);
        return Err(format!("{n} micro cores of {cpus} pCPUs: at least one must stay normal"));
    }
    Ok(())
}

/// The libraries would report ENOENT for all of these alike.
fn probe_device() -> Result<(), Cause> {
    let errno = |e: std::io::Error| e.raw_os_error().unwrap_or(0);
    let open = |path: &str| std::fs::OpenOptions::new().read(true).write(true).open(path).map_err(errno);
    let device = open("/dev/xen/privcmd");
    match device.or_else(|e| if e == errno::ENOENT { open("/proc/xen/privcmd") } else { Err(e) }) {
        Ok(_) => Ok(()),
        Err(errno::ENOENT) => {
            let on_xen = std::fs::read_to_string("/sys/hypervisor/type").is_ok_and(|t| t.trim() == "xen");
            Err(if on_xen { Cause::NoDevice } else { Cause::NoXen })
        }
        Err(errno::EACCES | errno::EPERM) => Err(Cause::NoPrivilege),
        Err(e) => Err(Cause::System(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(slice_us: u32, micro_slice_us: u32, nr_micro: u32) -> Schedule {
        Schedule {
            slice_us,
            micro_slice_us,
            ratelimit_us: 1000,
            grace_us: 100,
            nr_micro,
            reserve: false,
            sizing: Sizing::Static,
            min_micro: 0,
            max_micro: 3,
            cur_micro: nr_micro,
            nr_cpus: 5,
            nr_groups: 1,
            micro_cpus: Vec::new(),
            micro_runs: 0,
            micro_ns: 0,
            micro_stay_max_ns: 0,
            moves: 0,
            reached: 0,
            rejected: 0,
        }
    }

    #[test]
    fn schedules_outside_the_interface_are_refused_with_its_limits() {
        assert_eq!(check_schedule(&schedule(30_000, 100, 4), None), Ok(()));
        let refused = [
            (schedule(999, 100, 0), "normal slice 999 us: expected 1000 us to 1000000 us"),
            (schedule(30_000, 49, 0), "micro slice 49 us: expected 50 us to the normal slice, 30000 us"),
            (schedule(1_000, 1_001, 0), "micro slice 1001 us: expected 50 us to the normal slice, 1000 us"),
            (schedule(30_000, 100, 5), "5 micro cores of 5 pCPUs: at least one must stay normal"),
        ];
        for (wanted, why) in refused {
            assert_eq!(check_schedule(&wanted, None), Err(why.to_owned()));
        }
    }
    #[test]
    fn micro_cores_beyond_the_pcpus_are_refused_only_where_they_change() {
        let (boot, more) = (schedule(30_000, 100, 8), schedule(30_000, 100, 9));
        assert_eq!(check_schedule(&schedule(20_000, 100, 8), Some(&boot)), Ok(()));
        assert_eq!(check_schedule(&schedule(20_000, 100, 2), Some(&boot)), Ok(()));
        assert!(check_schedule(&more, Some(&boot)).is_err());
    }
}

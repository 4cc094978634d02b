// SPDX-License-Identifier: GPL-3.0-only
//! Errors that name the operation, the object and the cause.

use super::errno;
use std::fmt;

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Opening the way to the hypervisor.
    Open,
    /// Enumerating cpupools.
    ListPools,
    /// Enumerating domains.
    ListDomains,
    /// Turning a name into a domain or cpupool.
    LookUp,
    /// Reading a cpupool's parameters and counters.
    ReadPool,
    /// Reading how long pCPUs have been idle.
    ReadIdle,
    /// Setting a cpupool's parameters.
    SetPool,
    /// Reading a domain's weight and cap.
    ReadDomain,
    /// Setting a domain's weight and cap.
    SetDomain,
    /// Reading a domain's counters.
    ReadStats,
    /// Reading a domain's ranges.
    ReadRanges,
    /// Replacing a domain's ranges.
    PushRanges,
    /// Dropping a domain's ranges.
    DropRanges,
    /// Recording what a cpupool is told and decides.
    Trace,
    /// Reading the vCPU state that KASLR's slide is computed from.
    ReadSlide,
    /// Reading the memory of a domain.
    ReadGuest,
    /// Holding the kernel that a domain runs against the one that ranges are of.
    MatchKernel,
}

impl Op {
    /// The operation as a phrase that its object completes.
    fn phrase(self) -> &'static str {
        match self {
            Op::Open => "open the hypervisor",
            Op::ListPools => "list cpupools",
            Op::ListDomains => "list domains",
            Op::LookUp => "find",
            Op::ReadPool => "read parameters of",
            Op::ReadIdle => "read idle times of pCPUs",
            Op::SetPool => "set parameters of",
            Op::ReadDomain => "read weight and cap of",
            Op::SetDomain => "set weight and cap of",
            Op::ReadStats => "read counters of",
            Op::ReadRanges => "read ranges of",
            Op::PushRanges => "push ranges to",
            Op::DropRanges => "drop ranges of",
            Op::Trace => "trace",
            Op::ReadSlide => "read KASLR slide of",
            Op::ReadGuest => "read memory of",
            Op::MatchKernel => "match the kernel of",
        }
    }
}

/// What it was tried on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// The host as a whole.
    Host,
    /// A domain; the name is unknown where xenstore has none.
    Domain(u32, Option<String>),
    /// A cpupool.
    Pool(u32, String),
    /// A domain that was asked for by this text.
    DomainNamed(String),
    /// A cpupool that was asked for by this text.
    PoolNamed(String),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::Host => Ok(()),
            Object::Domain(id, Some(name)) => write!(f, " domain '{name}' (id {id})"),
            Object::Domain(id, None) => write!(f, " domain id {id}"),
            Object::Pool(id, name) => write!(f, " cpupool '{name}' (id {id})"),
            Object::DomainNamed(text) => write!(f, " domain '{text}'"),
            Object::PoolNamed(text) => write!(f, " cpupool '{text}'"),
        }
    }
}

/// Why it failed.
#[derive(Debug)]
pub enum Cause {
    /// The hypervisor returned this errno.
    Xen(i32),
    /// A system call of dom0 returned this errno.
    System(i32),
    /// No hypervisor under this kernel.
    NoXen,
    /// A Xen host, but the device is missing.
    NoDevice,
    /// Not allowed to open the device.
    NoPrivilege,
    /// A Xen of another release: its control interface has another version.
    OtherAbi {
        /// The running Xen, "4.17".
        running: String,
    },
    /// The object is under another scheduler.
    OtherScheduler(String),
    /// Nothing of that name.
    Unknown,
    /// xenstore failed.
    Store(std::io::Error),
    /// A parameter that cannot be right, refused before any hypercall.
    Refused(String),
}

/// One failed operation.
#[derive(Debug)]
pub struct Error {
    /// What was tried.
    pub op: Op,
    /// On what.
    pub object: Object,
    /// Why it failed.
    pub cause: Cause,
}

impl Error {
    /// An error of the hypervisor's, of which `running` tells the release: a Xen of another one refuses every call for the
    /// version of the interface, with EACCES.
    pub fn xen(op: Op, object: Object, errno: i32, running: impl FnOnce() -> Option<String>) -> Error {
        let other = if errno == errno::EACCES { running().filter(|xen| xen != BUILT_FOR) } else { None };
        let cause = other.map_or(Cause::Xen(errno), |running| Cause::OtherAbi { running });
        Error { op, object, cause }
    }

    /// A parameter that is refused here.
    pub fn refused(op: Op, object: Object, why: impl Into<String>) -> Error {
        Error { op, object, cause: Cause::Refused(why.into()) }
    }
}

/// The Xen release whose headers this binary was built from.
pub const BUILT_FOR: &str = env!("MICROSLICE_XEN_VERSION");

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}: ", self.op.phrase(), self.object)?;
        match &self.cause {
            Cause::Xen(e) => write!(f, "Xen refused with {}: {}", errno::name(*e), errno::meaning(self.op, *e)),
            Cause::System(e) => write!(f, "{}: {}", errno::name(*e), std::io::Error::from_raw_os_error(*e)),
            Cause::NoXen => f.write_str("no Xen here: this kernel does not run on the Xen hypervisor (no /dev/xen/privcmd)"),
            Cause::NoDevice => f.write_str(
                "/dev/xen/privcmd is missing: run in dom0, with the module xen-privcmd loaded (`modprobe xen-privcmd`)",
            ),
            Cause::NoPrivilege => f.write_str("no privilege to open /dev/xen/privcmd: run as root in dom0"),
            Cause::OtherAbi { running } => write!(
                f,
                "Xen refused with EACCES: this microslice was built for the control interface of Xen {BUILT_FOR}, \
                 and Xen {running} is running; install the microslice built from that Xen's tree"
            ),
            Cause::OtherScheduler(name) => write!(
                f,
                "it is under scheduler '{name}', not 'microslice': boot Xen with sched=microslice, or make a cpupool \
                 with `xl cpupool-create` and sched=\"microslice\" and move it there"
            ),
            Cause::Unknown => match self.object {
                Object::PoolNamed(_) => f.write_str("no such cpupool; `microslice pool list` shows them"),
                _ => f.write_str("no such domain; `microslice domain list` shows them"),
            },
            Cause::Store(e) => write!(f, "xenstore: {e} (is xenstored running?)"),
            Cause::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> Object {
        Object::Domain(3, Some("web".into()))
    }

    #[test]
    fn names_operation_object_and_cause() {
        let cases = [
            (
                Error::xen(Op::PushRanges, web(), errno::E2BIG, || None),
                "push ranges to domain 'web' (id 3): Xen refused with E2BIG: more ranges than a domain may have",
            ),
            (
                Error::xen(Op::SetPool, Object::Pool(0, "Pool-0".into()), 28, || None),
                "set parameters of cpupool 'Pool-0' (id 0): Xen refused with ENOSPC: no space left on device",
            ),
            (
                Error { op: Op::LookUp, object: Object::DomainNamed("wbe".into()), cause: Cause::Unknown },
                "find domain 'wbe': no such domain; `microslice domain list` shows them",
            ),
            (
                Error { op: Op::LookUp, object: Object::PoolNamed("p".into()), cause: Cause::Unknown },
                "find cpupool 'p': no such cpupool; `microslice pool list` shows them",
            ),
            (
                Error { op: Op::Open, object: Object::Host, cause: Cause::NoPrivilege },
                "open the hypervisor: no privilege to open /dev/xen/privcmd: run as root in dom0",
            ),
            (
                Error {
                    op: Op::LookUp,
                    object: Object::DomainNamed("web".into()),
                    cause: Cause::Store(std::io::Error::other("cannot connect: no socket")),
                },
                "find domain 'web': xenstore: cannot connect: no socket (is xenstored running?)",
            ),
            (
                Error { op: Op::SetDomain, object: web(), cause: Cause::OtherScheduler("credit2".into()) },
                "set weight and cap of domain 'web' (id 3): it is under scheduler 'credit2', not 'microslice': boot Xen \
                 with sched=microslice, or make a cpupool with `xl cpupool-create` and sched=\"microslice\" and move it there",
            ),
            (
                Error::xen(Op::ReadIdle, Object::Host, errno::EPERM, || None),
                "read idle times of pCPUs: Xen refused with EPERM: this domain may not control others: run in dom0",
            ),
            (
                Error::xen(Op::Trace, Object::Pool(1, "second".into()), 61, || None),
                "trace cpupool 'second' (id 1): Xen refused with ENODATA: somebody else has stopped it, or started one of his own",
            ),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
        }
    }

    /// A Xen of another release answers EACCES to every domctl and sysctl (do_domctl() and do_sysctl()).
    #[test]
    fn another_abi_is_its_own_error() {
        let text = |errno, running: Option<&str>| {
            Error::xen(Op::ListPools, Object::Host, errno, || running.map(Into::into)).to_string()
        };
        assert_eq!(
            text(errno::EACCES, Some("4.17")),
            format!(
                "list cpupools: Xen refused with EACCES: this microslice was built for the control interface of Xen \
                 {BUILT_FOR}, and Xen 4.17 is running; install the microslice built from that Xen's tree"
            )
        );
        for (errno, running) in
            [(errno::EACCES, Some(BUILT_FOR)), (errno::EACCES, None), (errno::EPERM, Some("4.17"))]
        {
            assert!(!text(errno, running).contains("was built for"), "{errno} {running:?}");
        }
    }
}

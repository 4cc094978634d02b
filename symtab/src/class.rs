// SPDX-License-Identifier: MIT OR Apache-2.0
//! The classes of critical kernel code. Numbers are hypervisor ABI; names are those of CLI, YAML and JSON.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Why code matters when its vCPU loses its pCPU there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u32)]
pub enum Class {
    /// Not critical. In a user's catalogue: takes a name out.
    None = 0,
    /// Spins for a lock: the yielder's side.
    LockWait = 1,
    /// Releases a lock or runs inside a holder's section: siblings may be spinning.
    LockHold = 2,
    /// Waits until siblings have answered a TLB-shootdown or function-call IPI.
    IpiWait = 3,
    /// Answers such an IPI.
    IpiServe = 4,
    /// Serves, or is about to send, a reschedule IPI.
    Resched = 5,
    /// Interrupt entry and exit.
    Irq = 6,
    /// The page allocator, under its zone lock.
    PageAlloc = 7,
    /// Wakes the waiters of a read-write semaphore, under its wait lock.
    RwsemWake = 8,
    /// In the stub that makes a hypercall: waits for IPIs if the hypercall is a yield, and is nothing if preempted there.
    Hypercall = 10,
}

impl Class {
    /// Every class that code can have, in ABI order: all but [`Class::None`].
    pub const CRITICAL: [Class; 9] = [
        Class::LockWait,
        Class::LockHold,
        Class::IpiWait,
        Class::IpiServe,
        Class::Resched,
        Class::Irq,
        Class::PageAlloc,
        Class::RwsemWake,
        Class::Hypercall,
    ];

    /// The number in the hypervisor's range table.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The class of an ABI number, if there is one.
    pub fn from_number(number: u32) -> Option<Class> {
        [Class::None].into_iter().chain(Class::CRITICAL).find(|class| class.number() == number)
    }

    /// The name, as [`fmt::Display`] and serde write it.
    pub fn name(self) -> &'static str {
        match self {
            Class::None => "none",
            Class::LockWait => "lock-wait",
            Class::LockHold => "lock-hold",
            Class::IpiWait => "ipi-wait",
            Class::IpiServe => "ipi-serve",
            Class::Resched => "resched",
            Class::Irq => "irq",
            Class::PageAlloc => "page-alloc",
            Class::RwsemWake => "rwsem-wake",
            Class::Hypercall => "hypercall",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A word that is no class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown class '{0}': expected none, lock-wait, lock-hold, ipi-wait, ipi-serve, resched, irq, page-alloc, rwsem-wake or hypercall"
)]
pub struct UnknownClass(pub String);

impl FromStr for Class {
    type Err = UnknownClass;

    fn from_str(word: &str) -> Result<Class, UnknownClass> {
        [Class::None]
            .into_iter()
            .chain(Class::CRITICAL)
            .find(|class| class.name() == word)
            .ok_or_else(|| UnknownClass(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_the_abi() {
        for number in [0, 1, 2, 3, 4, 5, 6, 7, 8, 10] {
            let class = Class::from_number(number).unwrap();
            assert_eq!(class.number(), number);
            assert_eq!(class.name().parse::<Class>().unwrap(), class);
            assert_eq!(serde_json::to_string(&class).unwrap(), format!("\"{class}\""));
        }
        // 9 is what the hypervisor finds out by itself: interrupts off outside of every range.
        assert!(Class::from_number(9).is_none() && Class::from_number(11).is_none());
        assert!("spin".parse::<Class>().is_err());
    }
}

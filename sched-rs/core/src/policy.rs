// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is done about which sign of trouble: one row for each domain, switchable while it runs.
//!
//! A *source* is how the pool learns that siblings may be waiting for a vCPU that does not run. An *action* is how that
//! vCPU is helped. The mechanics are in [`crate::urgent`].
//!
//! | row | IPI wait | lock wait | event | preemption | micro cores |
//! |---|---|---|---|---|---|
//! | [`Policy::NONE`] | - | - | - | - | 0 |
//! | [`Policy::PAPER`] | micro | micro | micro | - | 1 or more, reserved |
//! | [`Policy::EAGER`] | micro | micro | micro | micro | 1 or more |
//! | [`Policy::BORROW`] | borrow | borrow | borrow | - | 0 |
//! | [`Policy::GRACE`] | borrow | borrow | borrow | grace | 0 |

use crate::class::Class;

/// How a vCPU that keeps its siblings waiting is helped. The numbers are the hypercall ABI's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// Not at all.
    #[default]
    None = 0,
    /// A micro slice on a micro core, when one is free.
    Micro = 1,
    /// A micro slice at once: on a free micro core, on the pCPU of the sibling that yielded, or on the normal core whose
    /// vCPU is furthest ahead of its share; that vCPU then resumes the rest of its own slice.
    Borrow = 2,
    /// It keeps its pCPU for at most [`crate::Params::grace`] more, once a slice. For [`Source::Preemption`] only.
    Grace = 3,
    /// The next normal slice that ends, or core that comes free, is its own.
    Front = 4,
}

/// How the pool learns of it. The numbers index a row in the hypercall ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Source {
    /// A vCPU yields while it waits for siblings to answer a TLB-shootdown or function-call IPI.
    IpiWait = 0,
    /// A vCPU yields while it spins for a lock.
    LockWait = 1,
    /// An interrupt or IPI arrives for a vCPU that is runnable and does not run.
    Event = 2,
    /// A vCPU loses its pCPU inside a critical service, or with interrupts off in kernel mode.
    Preemption = 3,
}

impl Source {
    /// A yield in this class; `None` if that is no wait for siblings.
    pub(crate) const fn of_wait(class: Class) -> Option<Self> {
        match class {
            Class::IpiWait | Class::Hypercall => Some(Self::IpiWait),
            Class::LockWait => Some(Self::LockWait),
            _ => None,
        }
    }
}

/// A domain's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Policy {
    /// For [`Source::IpiWait`].
    pub ipi_wait: Action,
    /// For [`Source::LockWait`].
    pub lock_wait: Action,
    /// For [`Source::Event`].
    pub event: Action,
    /// For [`Source::Preemption`].
    pub preemption: Action,
}

impl Action {
    const fn from_abi(n: u32) -> Option<Self> {
        Some(match n {
            0 => Self::None,
            1 => Self::Micro,
            2 => Self::Borrow,
            3 => Self::Grace,
            4 => Self::Front,
            _ => return None,
        })
    }
}

impl Policy {
    /// Detection only: everything is counted, nobody is helped.
    pub const NONE: Self = Self::row(Action::None, Action::None);
    /// What the paper does ("Accelerating Critical OS Services in Virtualized Systems with Flexible Micro-sliced Cores",
    /// EuroSys'18).
    pub const PAPER: Self = Self::row(Action::Micro, Action::None);
    /// The paper's, without waiting for a sibling to notice.
    pub const EAGER: Self = Self::row(Action::Micro, Action::Micro);
    /// Micro slices without micro cores.
    pub const BORROW: Self = Self::row(Action::Borrow, Action::None);
    /// Micro slices without micro cores, and fewer moments that need one.
    pub const GRACE: Self = Self::row(Action::Borrow, Action::Grace);

    /// The row of a new domain: it needs no micro core, and no other was better in every column of the lab's table
    /// (sched-rs/README.md).
    pub const DEFAULT: Self = Self::BORROW;

    const fn row(others: Action, preemption: Action) -> Self {
        Self { ipi_wait: others, lock_wait: others, event: others, preemption }
    }

    /// The row whose action for source `i` is in byte `i` of `n`; `None` if there is no such row.
    #[must_use]
    pub const fn from_abi(n: u32) -> Option<Self> {
        let [a, b, c, d] = n.to_le_bytes();
        let (Some(ipi_wait), Some(lock_wait), Some(event), Some(preemption)) = (
            Action::from_abi(a as u32),
            Action::from_abi(b as u32),
            Action::from_abi(c as u32),
            Action::from_abi(d as u32),
        ) else {
            return None;
        };
        let row = Self { ipi_wait, lock_wait, event, preemption };
        if row.in_range() { Some(row) } else { None }
    }

    /// The inverse of [`Policy::from_abi`].
    #[must_use]
    pub const fn to_abi(self) -> u32 {
        u32::from_le_bytes([
            self.ipi_wait as u8,
            self.lock_wait as u8,
            self.event as u8,
            self.preemption as u8,
        ])
    }

    /// Whether every action fits its source: only who is about to lose its pCPU can keep it.
    #[must_use]
    pub const fn in_range(&self) -> bool {
        !matches!(self.ipi_wait, Action::Grace)
            && !matches!(self.lock_wait, Action::Grace)
            && !matches!(self.event, Action::Grace)
    }

    /// The action for `source`.
    #[must_use]
    pub const fn action(&self, source: Source) -> Action {
        match source {
            Source::IpiWait => self.ipi_wait,
            Source::LockWait => self.lock_wait,
            Source::Event => self.event,
            Source::Preemption => self.preemption,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_survives_its_abi_form_and_nonsense_has_none() {
        for row in [Policy::NONE, Policy::PAPER, Policy::EAGER, Policy::BORROW, Policy::GRACE] {
            assert_eq!(Policy::from_abi(row.to_abi()), Some(row));
        }
        assert_eq!(Policy::from_abi(5), None, "there is no action 5");
        assert_eq!(Policy::from_abi(3), None, "a yielder has nothing to keep: grace fits preemption only");
        assert_eq!(Policy::from_abi(3 << 24).map(|p| p.preemption), Some(Action::Grace));
    }
}

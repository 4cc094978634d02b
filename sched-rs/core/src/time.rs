// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time in integer nanoseconds: an instant ([`Time`]) and a length ([`Span`]). The core has no clock; the caller does.

/// An instant of the caller's monotonic clock, in nanoseconds. It never goes back between two events of one pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Time(pub u64);

/// A length of time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Span(pub u64);

impl Time {
    /// The length from `earlier` to this instant; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }

    /// This instant moved on by `span`.
    #[must_use]
    pub const fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Span {
    /// `n` microseconds.
    #[must_use]
    pub const fn from_us(n: u32) -> Self {
        Self(n as u64 * 1_000)
    }

    /// What is left of this length once `used` is taken; zero if all is.
    #[must_use]
    pub const fn less(self, used: Self) -> Self {
        Self(self.0.saturating_sub(used.0))
    }

    /// The two lengths together.
    #[must_use]
    pub const fn plus(self, more: Self) -> Self {
        Self(self.0.saturating_add(more.0))
    }
}

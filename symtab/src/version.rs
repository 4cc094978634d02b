// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel's major and minor number, as far as names in its source depend on it.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;
use std::str::FromStr;

/// Linux MAJOR.MINOR, such as 6.1. Ordered by number: 5.9 < 5.10.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The first number.
    pub major: u16,
    /// The second number.
    pub minor: u16,
}

impl Version {
    /// The version in a banner, "Linux version 6.1.0-56-amd64 (...".
    pub fn from_banner(banner: &str) -> Option<Version> {
        let rest = banner.strip_prefix("Linux version ")?;
        let release: &str = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut parts = release.split('.');
        Some(Version { major: parts.next()?.parse().ok()?, minor: parts.next()?.parse().ok()? })
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Version, String> {
        let parsed = text.split_once('.').and_then(|(major, minor)| {
            let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
            (digits(major) && digits(minor)).then_some(())?;
            Some(Version { major: major.parse().ok()?, minor: minor.parse().ok()? })
        });
        parsed.ok_or_else(|| format!("'{text}' is not a kernel version: expected MAJOR.MINOR, such as 6.1"))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Version, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_order_by_number() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("5.9") < version("5.10"));
        assert_eq!(Version::from_banner("Linux version 6.12.95+deb12-amd64 (x"), Some(version("6.12")));
        assert_eq!(Version::from_banner("Linux version six"), None);
        for bad in ["", "6", "6.", "6.1.2", "+6.1", "6.x", "99999.1"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }
}

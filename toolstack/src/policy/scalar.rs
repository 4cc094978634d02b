// SPDX-License-Identifier: GPL-3.0-only
//! Values of a policy file: each says what was expected in its place. An absent key is none, an empty one an error.

use crate::hyper::safe::types::{Action, Row, Sizing};
use crate::units;
use clap::ValueEnum;
use glob::Pattern;
use serde::de::{Deserializer, Error, Unexpected, Visitor};
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// A whole number.
struct Number {
    what: &'static str,
    range: RangeInclusive<u64>,
}

impl Visitor<'_> for Number {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} to {}", self.what, self.range.start(), self.range.end())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
        if self.range.contains(&value) {
            return Ok(value);
        }
        Err(E::invalid_value(Unexpected::Unsigned(value), &self))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
        match u64::try_from(value) {
            Ok(value) => self.visit_u64(value),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(value), &self)),
        }
    }
}

/// Text that a function turns into the value, or says why not.
struct Text<T> {
    what: &'static str,
    parse: fn(&str) -> Result<T, String>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    // A number where a time is meant: the parser says that the unit is missing.
    fn visit_u64<E: Error>(self, value: u64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }
}

fn text<'de, D: Deserializer<'de>, T>(
    from: D,
    what: &'static str,
    parse: fn(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    from.deserialize_any(Text { what, parse })
}

/// 30ms.
pub fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    text(from, "a time, as in 30ms or 100us", units::parse_us).map(Some)
}

/// 1 to 65535.
pub fn weight<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
    let value = from.deserialize_any(Number { what: "a weight", range: 1..=u16::MAX.into() })?;
    Ok(u16::try_from(value).ok())
}

/// 0 to 65535.
pub fn cap<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
    let what = "a cap in percent of one pCPU (0: none)";
    let value = from.deserialize_any(Number { what, range: 0..=u16::MAX.into() })?;
    Ok(u16::try_from(value).ok())
}

/// Micro cores.
pub fn cores<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    // A cpupool under the scheduler has at most 64 pCPUs, and one stays normal.
    let value = from.deserialize_any(Number { what: "a number of micro cores", range: 0..=63 })?;
    Ok(u32::try_from(value).ok())
}

/// The format's number.
pub fn format<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    from.deserialize_any(Number {
        what: "the format of policy files that this microslice reads",
        range: 1..=1,
    })
}

fn choice<T: ValueEnum>(what: &str, word: &str) -> Result<T, String> {
    T::from_str(word, false).map_err(|_| {
        let all: Vec<String> = T::value_variants()
            .iter()
            .filter_map(|v| v.to_possible_value().map(|p| p.get_name().to_owned()))
            .collect();
        format!("'{word}' is not {what}: expected {}", all.join(", "))
    })
}

/// none, paper, ...
pub fn row<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Row>, D::Error> {
    text(from, "a policy row", |word| choice("a policy row", word)).map(Some)
}

/// none, micro, ...
pub fn action<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Action>, D::Error> {
    text(from, "an action", |word| choice("an action", word)).map(Some)
}

/// static, paper, adaptive.
pub fn mode<'de, D: Deserializer<'de>>(from: D) -> Result<Sizing, D::Error> {
    text(from, "a sizing mode", |word| choice("a sizing mode", word))
}

/// A name with `*`, `?` and `[...]`.
pub fn pattern<'de, D: Deserializer<'de>>(from: D) -> Result<Pattern, D::Error> {
    text(from, "a pattern of domain names", |word| {
        if word.is_empty() {
            return Err("an empty name matches no domain".to_owned());
        }
        Pattern::new(word)
            .map_err(|e| format!("'{word}' is not a pattern: {} (after {} bytes)", e.msg, e.pos))
    })
}

fn absolute(word: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(word);
    if path.is_absolute() { Ok(path) } else { Err(format!("'{word}' is not an absolute path")) }
}

/// A path from the root on.
pub fn path<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    text(from, "an absolute path", absolute).map(Some)
}

/// Where a domain's ranges come from.
pub fn kernel<'de, D: Deserializer<'de>>(from: D) -> Result<super::Kernel, D::Error> {
    text(from, "auto, none or the absolute path of a kernel or range file", |word| match word {
        "auto" => Ok(super::Kernel::Auto),
        "none" => Ok(super::Kernel::None),
        other => absolute(other).map(super::Kernel::File).map_err(|e| format!("{e}, auto or none")),
    })
}

/// An address of this machine that no other can reach.
pub fn loopback<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    text(from, "an address and port, as in 127.0.0.1:9713", |word| {
        let address: SocketAddr = word
            .parse()
            .map_err(|_| format!("'{word}' is not an address and port: expected one as in 127.0.0.1:9713"))?;
        if !address.ip().is_loopback() {
            return Err(format!(
                "'{word}' can be reached from outside: expected a loopback address, as in 127.0.0.1:9713"
            ));
        }
        Ok(Some(address))
    })
}

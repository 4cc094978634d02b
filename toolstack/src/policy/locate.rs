// SPDX-License-Identifier: GPL-3.0-only
//! Where in a YAML text a value stands. serde_yaml knows a place only while it reads, so the text is read again up to
//! the value, which then refuses to be read: that error has the place. In the same way a key that comes twice is found.

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeSet;
use std::fmt;

/// One step from a mapping or a sequence to what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// To the value of a key.
    Key(String),
    /// To an element, from 0.
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Step {
        Step::Key(key.to_owned())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Step {
        Step::Index(index)
    }
}

/// Line and column, from 1, of the value that `path` leads to; as far as there is a path, no further.
pub fn locate(text: &str, path: &[Step]) -> Option<(usize, usize)> {
    let error = To(path).deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
    error.location().map(|place| (place.line(), place.column()))
}

/// The path as people write it: `domains[1].weight`.
pub fn display(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text += key,
            Step::Key(key) => text += &format!(".{key}"),
            Step::Index(index) => text += &format!("[{index}]"),
        }
    }
    text
}

struct To<'a>(&'a [Step]);

impl<'de> DeserializeSeed<'de> for To<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for To<'_> {
    type Value = ();

    // Scalars are not accepted: the error says where they stand.
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the end of the path")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Step::Key(wanted), rest)) = self.0.split_first() else {
            return Err(A::Error::custom("here"));
        };
        while let Some(key) = map.next_key::<String>()? {
            if key == *wanted {
                return map.next_value_seed(To(rest));
            }
            map.next_value::<IgnoredAny>()?;
        }
        Err(A::Error::custom("here"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Some((Step::Index(wanted), rest)) = self.0.split_first() else {
            return Err(A::Error::custom("here"));
        };
        for _ in 0..*wanted {
            seq.next_element::<IgnoredAny>()?;
        }
        seq.next_element_seed(To(rest))?;
        Err(A::Error::custom("here"))
    }
}

/// The first key that a mapping has twice, if any, as an error that knows its place; or what else keeps the text from
/// being read.
pub fn read_once(text: &str) -> Result<(), serde_yaml::Error> {
    Unique.deserialize(serde_yaml::Deserializer::from_str(text))
}

struct Unique;

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("plain YAML, without tags")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = BTreeSet::new();
        while map.next_key_seed(New(&mut keys))?.is_some() {
            map.next_value_seed(Unique)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Unique)?.is_some() {}
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    // An empty text.
    fn visit_none<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A key that is not among those before it.
struct New<'a>(&'a mut BTreeSet<String>);

impl<'de> DeserializeSeed<'de> for New<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for New<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<(), E> {
        if self.0.insert(key.to_owned()) { Ok(()) } else { Err(E::custom(format!("'{key}' comes twice"))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# comment\na: 1\nb:\n  - x: 5\n    why: [p, q]\n  - x: null\n";

    #[test]
    fn values_are_found_where_they_stand() {
        let cases: [(&[Step], _, _); 5] = [
            (&["a".into()], (2, 4), "a"),
            (&["b".into(), 0.into(), "x".into()], (4, 8), "b[0].x"),
            (&["b".into(), 0.into(), "why".into(), 1.into()], (5, 14), "b[0].why[1]"),
            (&["b".into(), 1.into()], (6, 5), "b[1]"),
            (&["b".into(), 1.into(), "x".into()], (6, 8), "b[1].x"),
        ];
        for (path, place, name) in cases {
            assert_eq!(locate(TEXT, path), Some(place), "{name}");
            assert_eq!(display(path), name);
        }
    }
}

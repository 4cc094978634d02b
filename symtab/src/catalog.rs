// SPDX-License-Identifier: MIT OR Apache-2.0
//! The catalogue: which kernel functions are critical, of which class, and why. Data, not code: `catalog/linux.yaml`.
//!
//! A name matches a symbol of exactly that name, or of that name with suffixes that GCC or Clang add to clones and
//! split-off parts: `.isra.N`, `.constprop.N`, `.part.N`, `.cold`, `.cold.N`, `.llvm.N`, any number of them.

use crate::class::Class;
use crate::error::Error;
use crate::version::Version;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;

/// What the catalogue says about one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its class; [`Class::None`] takes the name out.
    pub class: Class,
    /// Why code of that name is critical.
    pub why: String,
    /// First version that has the name; `None`: unknown, or older than any version of interest.
    pub since: Option<Version>,
    /// Last version that has the name; `None`: still there.
    pub until: Option<Version>,
    /// The module that may have the name, besides the kernel proper; `None`: no module.
    pub module: Option<String>,
}

impl Entry {
    /// Whether a kernel of that version should have the name (if configured in and not inlined).
    pub fn expected_in(&self, version: Version) -> bool {
        self.since.is_none_or(|since| since <= version) && self.until.is_none_or(|until| version <= until)
    }
}

/// Names with their entries, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    entries: BTreeMap<String, Entry>,
}

const BUILTIN: &str = include_str!("../catalog/linux.yaml");

impl Catalog {
    /// The catalogue that comes with this crate.
    pub fn builtin() -> Catalog {
        // A test reads it, so the error is unreachable in a build that passed; an empty catalogue is what it would be.
        Catalog::from_yaml("builtin", BUILTIN).unwrap_or_default()
    }

    /// Reads a catalogue of the same form as `catalog/linux.yaml`. `name` is what errors call it.
    ///
    /// # Errors
    /// [`Error::Catalog`] with line and column.
    pub fn from_yaml(name: &str, text: &str) -> Result<Catalog, Error> {
        let file: FileForm = serde_yaml::from_str(text).map_err(|err| {
            let (line, column) = err.location().map_or((0, 0), |at| (at.line(), at.column()));
            let detail = err.to_string();
            // The location is ours to print.
            let detail = match detail.rsplit_once(" at line ") {
                Some((detail, _)) => detail.to_owned(),
                None => detail,
            };
            Error::Catalog { name: name.to_owned(), line, column, detail }
        })?;
        Ok(Catalog { entries: file.symbols })
    }

    /// This catalogue with another's entries added, or in place of its own of the same name.
    #[must_use]
    pub fn with(mut self, other: Catalog) -> Catalog {
        self.entries.extend(other.entries);
        self
    }

    /// The entry for a symbol's name, suffixes of the compiler aside, and the name it is filed under.
    pub fn find(&self, symbol: &str) -> Option<(&str, &Entry)> {
        let found = |name: &str| self.entries.get_key_value(name).map(|(name, entry)| (name.as_str(), entry));
        found(symbol).or_else(|| found(strip_suffixes(symbol)))
    }

    /// All entries by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }
}

/// The name that the source has.
fn strip_suffixes(symbol: &str) -> &str {
    let mut name = symbol;
    while let Some((base, last)) = name.rsplit_once('.') {
        let number = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
        let stripped = match base.rsplit_once('.') {
            Some((inner, "isra" | "constprop" | "part" | "cold" | "llvm")) if number => inner,
            _ if last == "cold" => base,
            _ => break,
        };
        name = stripped;
    }
    name
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    #[serde(deserialize_with = "rows")]
    symbols: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    class: Class,
    #[serde(default)]
    why: String,
    since: Option<Version>,
    until: Option<Version>,
    module: Option<String>,
}

fn rows<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Entry>, D::Error> {
    deserializer.deserialize_seq(Rows)
}

struct Rows;

impl<'de> Visitor<'de> for Rows {
    type Value = BTreeMap<String, Entry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of symbols")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut entries = BTreeMap::new();
        while seq.next_element_seed(OneRow(&mut entries))?.is_some() {}
        Ok(entries)
    }
}

/// Checks a row while its place in the file is still known to the parser.
struct OneRow<'a>(&'a mut BTreeMap<String, Entry>);

impl<'de> DeserializeSeed<'de> for OneRow<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneRow<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a symbol: name, class, why, since, until, module")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let row = Row::deserialize(MapAccessDeserializer::new(map))?;
        let name = row.name;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(de::Error::custom(format!("name '{name}' is not one word of printable ASCII")));
        }
        if strip_suffixes(&name) != name {
            return Err(de::Error::custom(format!(
                "name '{name}' has a compiler's suffix: leave it off, it is matched"
            )));
        }
        if let (Some(since), Some(until)) = (row.since, row.until)
            && until < since
        {
            return Err(de::Error::custom(format!("'{name}' is there until {until}, before since {since}")));
        }
        let Row { class, why, since, until, module, .. } = row;
        let entry = Entry { class, why, since, until, module };
        if self.0.insert(name.clone(), entry).is_some() {
            return Err(de::Error::custom(format!("'{name}' is listed twice")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Catalog::from_yaml("mine.yaml", text).unwrap_err().to_string()
    }

    #[test]
    fn the_builtin_catalogue_is_complete() {
        let catalog = Catalog::from_yaml("builtin", BUILTIN).unwrap();
        for class in Class::CRITICAL {
            assert!(catalog.iter().any(|(_, entry)| entry.class == class), "{class} has no name");
        }
        for (name, entry) in catalog.iter() {
            assert!(entry.class != Class::None && !entry.why.is_empty(), "{name} lacks a class or a reason");
        }
        assert_eq!(Catalog::builtin(), catalog);
    }

    /// The schema says what the parser takes: the same keys, the same classes.
    #[test]
    fn the_schema_is_the_parsers() {
        let schema: serde_json::Value = serde_json::from_str(include_str!("../catalog/schema.json")).unwrap();
        let row = &schema["properties"]["symbols"]["items"]["properties"];
        let classes: Vec<&str> =
            row["class"]["enum"].as_array().unwrap().iter().map(|class| class.as_str().unwrap()).collect();
        let all = [Class::None].into_iter().chain(Class::CRITICAL);
        assert_eq!(classes, all.map(Class::name).collect::<Vec<_>>());
        let mut keys: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
        let mut known = ["name", "class", "why", "since", "until", "module"];
        keys.sort_unstable();
        known.sort_unstable();
        assert_eq!(keys, known);
        assert!(error("symbols:\n  - {name: a, class: irq, x: 1}\n").contains("`since`, `until`, `module`"));
    }

    #[test]
    fn suffixes_of_compilers_are_no_part_of_a_name() {
        let cases = [
            ("rwsem_wake.isra.0", "rwsem_wake"),
            ("free_one_page.constprop.0.isra.12.cold", "free_one_page"),
            ("a.part.3", "a"),
            ("a.cold.7", "a"),
            ("a.llvm.123456", "a"),
            ("__key.12", "__key.12"),
            ("a.isra.", "a.isra."),
            (".cold", ""),
        ];
        for (symbol, name) in cases {
            assert_eq!(strip_suffixes(symbol), name, "{symbol}");
        }
    }

    #[test]
    fn errors_have_line_and_column() {
        let cases = [
            "symbols:\n  - name: a\n    class: spinning\n",
            "symbols:\n  - {name: a, class: irq}\n  - {name: b, class: irq}\n  - {name: a, class: resched}\n",
            "symbols:\n  - name: a\n    class: irq\n    since: six\n",
            "symbols:\n  - {name: a, class: irq, since: 5.10, until: 5.9}\n",
            "symbols:\n  - {name: a.isra.0, class: irq}\n",
            "symbols:\n  - {name: a, class: irq, section: kvm}\n",
            "symbols: [\n",
            "names: []\n",
            "",
        ];
        let errors: Vec<_> = cases.iter().map(|text| error(text)).collect();
        insta::assert_snapshot!(errors.join("\n"), @r"
        catalogue mine.yaml:3:12: symbols[0].class: unknown variant `spinning`, expected one of `none`, `lock-wait`, `lock-hold`, `ipi-wait`, `ipi-serve`, `resched`, `irq`, `page-alloc`, `rwsem-wake`, `hypercall`
        catalogue mine.yaml:4:5: symbols[2]: 'a' is listed twice
        catalogue mine.yaml:2:5: symbols[0]: 'six' is not a kernel version: expected MAJOR.MINOR, such as 6.1
        catalogue mine.yaml:2:5: symbols[0]: 'a' is there until 5.9, before since 5.10
        catalogue mine.yaml:2:5: symbols[0]: name 'a.isra.0' has a compiler's suffix: leave it off, it is matched
        catalogue mine.yaml:2:27: symbols[0]: unknown field `section`, expected one of `name`, `class`, `why`, `since`, `until`, `module`
        catalogue mine.yaml:2:1: did not find expected node content
        catalogue mine.yaml:1:1: unknown field `names`, expected `symbols`
        catalogue mine.yaml:1:1: missing field `symbols`
        ");
    }

    #[test]
    fn a_users_entries_add_and_override() {
        let user = "symbols:\n  - {name: osq_lock, class: none}\n  - {name: mine, class: irq, since: 5.10}\n";
        let catalog = Catalog::builtin().with(Catalog::from_yaml("mine.yaml", user).unwrap());
        assert_eq!(catalog.find("osq_lock").unwrap().1.class, Class::None);
        let (name, entry) = catalog.find("mine.cold").unwrap();
        assert_eq!((name, entry.class), ("mine", Class::Irq));
        assert!(!entry.expected_in("5.9".parse().unwrap()));
        assert!(entry.expected_in("6.1".parse().unwrap()));
    }
}

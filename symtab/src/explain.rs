// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why an address has its class.

use crate::catalog::Catalog;
use crate::class::Class;
use crate::hex;
use crate::image::KernelImage;
use serde::Serialize;
use std::fmt;

/// The class of an address, and how it came to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// As asked, at its link-time address.
    #[serde(with = "hex")]
    pub address: u64,
    /// The class of the range that holds it, else [`Class::None`].
    pub class: Class,
    /// The symbols that hold it: aliases of each other. None: no symbol does.
    pub symbols: Vec<Holder>,
    /// Why there is no class although a rule names a symbol, or no symbol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'static str>,
}

/// A symbol that holds the address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// As the kernel has it, with compiler suffixes.
    pub name: String,
    /// Of the address from its start, in bytes.
    pub offset: u64,
    /// The catalogue's row about it, if there is one.
    pub rule: Option<Rule>,
}

/// A row of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// The name it is filed under.
    pub name: String,
    /// Its class.
    pub class: Class,
    /// Why.
    pub why: String,
}

impl Explanation {
    pub(crate) fn new(image: &KernelImage, catalog: &Catalog, address: u64) -> Explanation {
        let class = image.ranges(catalog).find(address).map_or(Class::None, |range| range.class);
        let holder = |symbol: crate::Symbol<'_>| Holder {
            offset: address - symbol.address,
            rule: catalog.find(symbol.name).map(|(name, entry)| Rule {
                name: name.to_owned(),
                class: entry.class,
                why: entry.why.clone(),
            }),
            name: symbol.name.to_owned(),
        };
        let symbols: Vec<Holder> = image.symbols_at(address).map(holder).collect();
        let ruled = |holder: &Holder| holder.rule.as_ref().is_some_and(|rule| rule.class != Class::None);
        let note = match class {
            Class::None if symbols.is_empty() => Some("no symbol holds it"),
            Class::None if !symbols.iter().any(ruled) => None,
            Class::None if !image.text().contains(&address) => Some("it is outside of the kernel's text"),
            Class::None => Some("the rule is for code only, or for another module"),
            _ => None,
        };
        Explanation { address, class, symbols, note }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}: class {}", self.address, self.class)?;
        match self.note {
            Some(note) => writeln!(f, ": {note}")?,
            None => writeln!(f)?,
        }
        for symbol in &self.symbols {
            write!(f, "  {}+{:#x}: ", symbol.name, symbol.offset)?;
            match &symbol.rule {
                Some(Rule { name, class, why }) => writeln!(f, "rule {name} ({class}): {why}")?,
                None => writeln!(f, "no rule")?,
            }
        }
        Ok(())
    }
}

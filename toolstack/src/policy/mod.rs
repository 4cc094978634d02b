// SPDX-License-Identifier: GPL-3.0-only
//! The policy file: what an administrator wants of cpupools and domains, as YAML.
//!
//! Owns: the format, and what is wrong with a text, with line and column. Refuses: anything that it does not know, and
//! what contradicts itself. What holds is said once: keys that are left out are not touched on the host.
//! [`plan`] holds a file against the host.

mod locate;
pub mod plan;
mod scalar;

use crate::hyper::safe::types::{Action, Policy as Actions, Row, Sizing};
use anyhow::{Context, Result};
use glob::Pattern;
use locate::{Step, display, locate, read_once};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// No policy file is longer, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// A file's content.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The format.
    #[serde(rename = "microslice-policy", deserialize_with = "scalar::format")]
    _format: u64,
    /// Where the daemon serves its metrics.
    #[serde(default, deserialize_with = "scalar::loopback")]
    pub metrics: Option<SocketAddr>,
    /// cpupools by name.
    #[serde(default)]
    pub pools: BTreeMap<String, PoolRule>,
    /// Domains; the first whose pattern fits a name holds.
    #[serde(default)]
    pub domains: Vec<DomainRule>,
}

/// What is wanted of a cpupool.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PoolRule {
    /// Slice on normal cores, us.
    #[serde(default, deserialize_with = "scalar::time")]
    pub slice: Option<u32>,
    /// Slice on micro cores, us.
    #[serde(default, deserialize_with = "scalar::time")]
    pub micro_slice: Option<u32>,
    /// Length of a grace, us.
    #[serde(default, deserialize_with = "scalar::time")]
    pub grace: Option<u32>,
    /// Micro cores do no normal work.
    #[serde(default)]
    pub reserve: Option<bool>,
    /// How many micro cores.
    #[serde(default, deserialize_with = "scalar::cores")]
    pub micro_cores: Option<u32>,
    /// Who decides how many.
    #[serde(default)]
    pub sizing: Option<SizingRule>,
}

/// Who decides how many micro cores there are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizingRule {
    /// Who.
    #[serde(deserialize_with = "scalar::mode")]
    pub mode: Sizing,
    /// Least number.
    #[serde(default, deserialize_with = "scalar::cores")]
    pub min: Option<u32>,
    /// Greatest number.
    #[serde(default, deserialize_with = "scalar::cores")]
    pub max: Option<u32>,
}

/// What is wanted of the domains of a name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainRule {
    /// Which.
    #[serde(deserialize_with = "scalar::pattern")]
    pub name: Pattern,
    /// A whole row of actions.
    #[serde(default, deserialize_with = "scalar::row")]
    pub policy: Option<Row>,
    /// Single actions; they go before the row's.
    #[serde(default)]
    pub actions: ActionsRule,
    /// Weight.
    #[serde(default, deserialize_with = "scalar::weight")]
    pub weight: Option<u16>,
    /// Cap, percent of one pCPU.
    #[serde(default, deserialize_with = "scalar::cap")]
    pub cap: Option<u16>,
    /// Where its ranges come from.
    #[serde(default, deserialize_with = "scalar::kernel")]
    pub kernel: Kernel,
    /// Rows that go before the built-in catalogue's.
    #[serde(default, deserialize_with = "scalar::path")]
    pub catalog: Option<PathBuf>,
}

/// Single actions of a row.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ActionsRule {
    #[serde(default, deserialize_with = "scalar::action")]
    ipi_wait: Option<Action>,
    #[serde(default, deserialize_with = "scalar::action")]
    lock_wait: Option<Action>,
    #[serde(default, deserialize_with = "scalar::action")]
    event: Option<Action>,
    #[serde(default, deserialize_with = "scalar::action")]
    preemption: Option<Action>,
}

/// Where a domain's ranges come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Kernel {
    /// The kernel that libxl started it with.
    #[default]
    Auto,
    /// It gets none; those it has stay.
    None,
    /// A kernel image or range file.
    File(PathBuf),
}

impl DomainRule {
    /// The row that is wanted for a domain that has `now`; none if the file does not say.
    pub fn actions(&self, now: Actions) -> Option<Actions> {
        let ActionsRule { ipi_wait, lock_wait, event, preemption } = self.actions;
        let row = self.policy.map_or(now, Row::policy);
        let silent =
            self.policy.is_none() && [ipi_wait, lock_wait, event, preemption].iter().all(Option::is_none);
        (!silent).then(|| Actions {
            ipi_wait: ipi_wait.unwrap_or(row.ipi_wait),
            lock_wait: lock_wait.unwrap_or(row.lock_wait),
            event: event.unwrap_or(row.event),
            preemption: preemption.unwrap_or(row.preemption),
        })
    }
}

impl Policy {
    /// What holds where there is no file: every domain gets the ranges of its kernel, nothing else is touched.
    pub fn builtin() -> Policy {
        Policy::parse("the built-in policy", "microslice-policy: 1\ndomains: [{name: '*'}]\n")
            .unwrap_or_default()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// `FILE:LINE:COLUMN: WHERE: what is wrong, what was expected`.
    pub fn load(path: &Path) -> Result<Policy> {
        let name = path.display().to_string();
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
        read.with_context(|| format!("read policy {name}"))?;
        anyhow::ensure!(text.len() as u64 <= MAX_BYTES, "read policy {name}: longer than {MAX_BYTES} bytes");
        Policy::parse(&name, &text).map_err(anyhow::Error::msg)
    }

    /// Reads a text; `name` is for errors.
    pub fn parse(name: &str, text: &str) -> Result<Policy, String> {
        let read = read_once(text).and_then(|()| serde_yaml::from_str(text));
        let policy: Policy = read.map_err(|error| {
            let message = error.to_string();
            let Some(place) = error.location() else { return format!("{name}: {message}") };
            let (line, column) = (place.line(), place.column());
            let said = format!(" at line {line} column {column}");
            format!("{name}:{line}:{column}: {}", message.replace(&said, ""))
        })?;
        let wrong = policy.contradiction(text);
        wrong.map_or(Ok(policy), |(path, what)| {
            let place =
                locate(text, &path).map(|(line, column)| format!("{line}:{column}:")).unwrap_or_default();
            Err(format!("{name}:{place} {}: {what}", display(&path)))
        })
    }

    /// The rule for a domain of that name.
    pub fn domain(&self, name: &str) -> Option<&DomainRule> {
        self.domains.iter().find(|rule| rule.name.matches(name))
    }

    /// The first thing that cannot be meant, and where it stands.
    fn contradiction(&self, text: &str) -> Option<(Vec<Step>, String)> {
        for (name, pool) in &self.pools {
            if let Some((path, what)) = pool.contradiction() {
                let mut full: Vec<Step> = vec!["pools".into(), Step::Key(name.clone())];
                full.extend(path.iter().map(|key| Step::from(*key)));
                return Some((full, what));
            }
        }
        for (index, rule) in self.domains.iter().enumerate() {
            let at = |keys: &[&str]| {
                let start = ["domains".into(), index.into()];
                start.into_iter().chain(keys.iter().map(|key| Step::from(*key))).collect::<Vec<Step>>()
            };
            if let Some((keys, what)) = rule.contradiction() {
                return Some((at(&keys), what));
            }
            let earlier = self.domains.iter().take(index);
            let hides = |other: &DomainRule| other.name.as_str() == "*" || other.name == rule.name;
            if let Some(first) = earlier.enumerate().find(|(_, other)| hides(other)).map(|(first, _)| first) {
                let line = locate(text, &["domains".into(), first.into()]).map_or(0, |(line, _)| line);
                let all = self.domains.get(first).map_or("", |other| other.name.as_str());
                return Some((
                    at(&["name"]),
                    format!("'{}' is never reached: '{all}' in line {line} fits first", rule.name),
                ));
            }
        }
        None
    }
}

impl PoolRule {
    fn contradiction(&self) -> Option<(Vec<&'static str>, String)> {
        if let Some(slice) = self.slice {
            for (key, value) in [("micro-slice", self.micro_slice), ("grace", self.grace)] {
                if let Some(value) = value.filter(|value| *value > slice) {
                    let (value, slice) = (crate::units::us(value), crate::units::us(slice));
                    return Some((vec![key], format!("{value} is longer than the slice, {slice}")));
                }
            }
        }
        let sizing = self.sizing.as_ref()?;
        let fixed = sizing.mode == Sizing::Static;
        if fixed && (sizing.min.is_some() || sizing.max.is_some()) {
            return Some((
                vec!["sizing"],
                "mode static takes no min or max: expected micro-cores beside it".into(),
            ));
        }
        if let (Some(min), Some(max)) = (sizing.min, sizing.max)
            && min > max
        {
            return Some((vec!["sizing", "min"], format!("{min} at least and {max} at most")));
        }
        if !fixed && self.micro_cores.is_some() {
            let what = "the scheduler decides in this sizing mode: expected min and max in sizing instead, or mode static";
            return Some((vec!["micro-cores"], what.into()));
        }
        None
    }
}

impl DomainRule {
    fn contradiction(&self) -> Option<(Vec<&'static str>, String)> {
        let a = &self.actions;
        for (key, action) in [("ipi-wait", a.ipi_wait), ("lock-wait", a.lock_wait), ("event", a.event)] {
            if action == Some(Action::Grace) {
                return Some((vec!["actions", key], "grace fits preemption only".into()));
            }
        }
        if self.catalog.is_some() && self.kernel == Kernel::None {
            return Some((
                vec!["catalog"],
                "without a kernel (kernel: none) there is nothing to look up".into(),
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: GPL-3.0-only
//! Tables in `xl`'s manner, and JSON. A table's first column is a name and flush left, as are columns of free text; the
//! others are flush right, with at least the width that keeps them where `xl` has them.

use anyhow::{Context, Result};
use serde::Serialize;
use std::fs::{self, File};
use std::path::Path;

/// A heading and the least width of its column; 0 for free text.
pub type Column = (&'static str, usize);

/// A table with a line per row, ready to print. Rows have as many cells as there are columns.
pub fn table(columns: &[Column], rows: &[Vec<String>]) -> String {
    let width = |i: usize, least: usize| {
        rows.iter()
            .filter_map(|row| row.get(i))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
            .max(least)
    };
    let widths: Vec<usize> = columns.iter().enumerate().map(|(i, c)| width(i, c.1.max(c.0.len()))).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(columns.iter().zip(&widths))
            .enumerate()
            .map(
                |(i, (cell, (column, &w)))| {
                    if i == 0 || column.1 == 0 { format!("{cell:<w$}") } else { format!("{cell:>w$}") }
                },
            )
            .collect();
        text.push_str(padded.join(" ").trim_end());
        text.push('\n');
    };
    line(&mut columns.iter().map(|c| c.0));
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

/// Indented JSON and a newline.
pub fn json(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// Writes a file as a whole, by way of `PATH.partial`, or leaves what was there.
pub fn write_whole<T>(path: &Path, fill: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let write = || -> Result<T> {
        let mut file = File::create(&partial)?;
        let done = fill(&mut file)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        Ok(done)
    };
    write()
        .inspect_err(|_| drop(fs::remove_file(&partial)))
        .with_context(|| format!("write {}", path.display()))
}

/// A cell for what is not known or does not apply.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

/// pCPU numbers as `xl` lists them: "0-3,6".
pub fn cpu_list(cpus: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &cpu in cpus {
        match runs.last_mut() {
            Some((_, end)) if *end + 1 == cpu => *end = cpu,
            _ => runs.push((cpu, cpu)),
        }
    }
    let text: Vec<String> =
        runs.iter().map(|&(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect();
    if text.is_empty() { "-".to_owned() } else { text.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_grow_with_their_cells() {
        let rows = [vec!["a".to_owned(), "1".into()], vec!["longer than that".into(), "12345".into()]];
        insta::assert_snapshot!(table(&[("Name", 10), ("ID", 4)], &rows), @r"
        Name                ID
        a                    1
        longer than that 12345
        ");
    }

    #[test]
    fn pcpus_are_runs() {
        assert_eq!(cpu_list(&[0, 1, 2, 3, 6]), "0-3,6");
        assert_eq!(cpu_list(&[4]), "4");
        assert_eq!(cpu_list(&[]), "-");
    }
}

// SPDX-License-Identifier: GPL-3.0-only
//! `microslice symbols`. Files are read and checked before the hypervisor is opened.

use crate::cli;
use crate::hyper::safe::Xen;
use crate::hyper::safe::error::Op;
use crate::hyper::safe::types::Domain;
use crate::out::{json, table};
use crate::rangefile::{self, KernelRanges, catalog};
use crate::slide::slide;
use anyhow::Result;
use microslice_symtab::{Class, Report};
use serde::Serialize;
use std::path::Path;

/// A kernel's ranges in JSON.
#[derive(Serialize)]
struct View<'a> {
    file: String,
    kernel: Option<&'a str>,
    #[serde(rename = "entry_SYSCALL_64")]
    anchor: Option<String>,
    report: Option<&'a Report>,
    ranges: &'a [microslice_symtab::Range],
}

/// What a push or a drop did, in JSON.
#[derive(Serialize)]
struct Done {
    domid: u32,
    name: Option<String>,
    ranges: usize,
    slide: Option<String>,
    generation: u64,
}

/// Runs a command of the group.
pub fn run(command: &cli::Symbols, as_json: bool) -> Result<String> {
    match command {
        cli::Symbols::Import { file, catalog: c, output } => {
            let kernel = KernelRanges::from_image(file, &catalog(c.catalog.as_deref())?)?;
            if let Some(path) = output {
                kernel.write(path)?;
            }
            if as_json { view(file, &kernel) } else { Ok(imported(&kernel, output.as_deref())) }
        }
        cli::Symbols::Show { file, catalog: c, ranges, explain } => {
            let catalog = catalog(c.catalog.as_deref())?;
            if let Some(address) = explain {
                let explanation = rangefile::explain(file, &catalog, *address)?;
                return if as_json { json(&explanation) } else { Ok(explanation.to_string()) };
            }
            let kernel = KernelRanges::load(file, &catalog)?;
            match (as_json, ranges) {
                (true, _) => view(file, &kernel),
                (false, true) => Ok(list(&kernel)),
                (false, false) => {
                    Ok(kernel.report.as_ref().map_or_else(|| classes(&kernel), Report::to_string))
                }
            }
        }
        cli::Symbols::Push { domain, file, catalog: c, slide: wanted } => {
            let kernel = KernelRanges::load(file, &catalog(c.catalog.as_deref())?)?;
            let xen = Xen::open()?;
            let domain = xen.find_domain(domain)?;
            xen.require_microslice(Op::PushRanges, &domain)?;
            let slide = slide(&xen, &domain, &kernel, *wanted)?;
            let ranges = kernel.plain(slide)?;
            let generation = xen.push_ranges(&domain, &ranges)?;
            done(&domain, ranges.len(), Some(slide), generation, as_json)
        }
        cli::Symbols::Drop { domain } => {
            let xen = Xen::open()?;
            let domain = xen.find_domain(domain)?;
            xen.require_microslice(Op::DropRanges, &domain)?;
            let generation = xen.drop_ranges(&domain)?;
            done(&domain, 0, None, generation, as_json)
        }
    }
}

fn view(file: &Path, kernel: &KernelRanges) -> Result<String> {
    json(&View {
        file: file.display().to_string(),
        kernel: kernel.kernel.as_deref(),
        anchor: kernel.anchors.syscall.map(|a| format!("{a:#x}")),
        report: kernel.report.as_ref(),
        ranges: &kernel.ranges,
    })
}

fn imported(kernel: &KernelRanges, output: Option<&Path>) -> String {
    let mut text = kernel.report.as_ref().map(Report::to_string).unwrap_or_default();
    if kernel.anchors.syscall.is_none() {
        text += "entry_SYSCALL_64 is not in the image: pushes will need --slide\n";
    }
    if let Some(path) = output {
        text += &format!("{} ranges written to {}\n", kernel.ranges.len(), path.display());
    }
    text
}

/// A range file, class by class; what the kernel lacks is known to its image only.
fn classes(kernel: &KernelRanges) -> String {
    let mut text = format!("range file: {}\n", kernel.kernel.as_deref().unwrap_or("version unknown"));
    for class in Class::CRITICAL {
        let of_class = kernel.ranges.iter().filter(|r| r.class == class);
        let (ranges, bytes) = of_class.fold((0, 0), |(n, sum), r| (n + 1, sum + (r.end - r.start)));
        text += &format!("{:<10} {ranges:>4} ranges {bytes:>7} bytes\n", class.name());
    }
    let bytes: u64 = kernel.ranges.iter().map(|r| r.end - r.start).sum();
    text + &format!("{} ranges, {bytes} bytes\n", kernel.ranges.len())
}

fn list(kernel: &KernelRanges) -> String {
    let row = |r: &microslice_symtab::Range| {
        vec![
            format!("{:#018x}", r.start),
            format!("{:#018x}", r.end),
            r.class.name().to_owned(),
            r.names.join(" "),
        ]
    };
    let rows: Vec<_> = kernel.ranges.iter().map(row).collect();
    table(&[("Start", 18), ("End", 18), ("Class", 10), ("Symbols", 0)], &rows)
}

fn done(
    domain: &Domain,
    ranges: usize,
    slide: Option<i64>,
    generation: u64,
    as_json: bool,
) -> Result<String> {
    let slide = slide.map(|s| format!("{}{:#x}", if s < 0 { "-" } else { "" }, s.unsigned_abs()));
    if as_json {
        return json(&Done { domid: domain.id, name: domain.name.clone(), ranges, slide, generation });
    }
    let (object, slide) = (domain.object(), slide.map_or_else(String::new, |s| format!(", slide {s}")));
    Ok(format!("{ranges} ranges in force for{object}{slide}, generation {generation}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_says_what_is_in_force() {
        let domain = Domain::web();
        assert_eq!(
            done(&domain, 812, Some(0x1a00_0000), 4, false).unwrap(),
            "812 ranges in force for domain 'web' (id 3), slide 0x1a000000, generation 4\n"
        );
        insta::assert_snapshot!(done(&domain, 0, None, 5, true).unwrap(), @r#"
        {
          "domid": 3,
          "name": "web",
          "ranges": 0,
          "slide": null,
          "generation": 5
        }
        "#);
    }
}

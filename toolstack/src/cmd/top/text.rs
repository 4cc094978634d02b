// SPDX-License-Identifier: GPL-3.0-only
//! A moment as lines of text: the same for the screen and for `--batch`. Pure.
//!
//! Lines are exactly as wide as is asked for or shorter, and never wrap: names are cut, with a `~` at the end; columns that
//! do not fit are left out. ASCII but for names, and no colour: a serial console shows it all.

use super::model::{DomainRow, Mode, Moment, Pcpu, PoolRow};
use crate::hyper::safe::types::{Row, Sizing, Stats};
use crate::units;
use ratatui::text::Span;

/// Least width for which columns are chosen; from the others on there are more.
const LEAST: usize = 80;
const WIDE: usize = 132;
const MOST: usize = 172;
/// Every column, and names as long as `xl` shows them.
pub const LOG: usize = 200;
/// Widest name.
const NAME: usize = 33;

/// A line, and whether it is a heading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Without a newline.
    pub text: String,
    /// To be set off.
    pub heading: bool,
}

fn plain(text: impl Into<String>) -> Line {
    Line { text: text.into(), heading: false }
}

fn heading(text: impl Into<String>) -> Line {
    Line { text: text.into(), heading: true }
}

/// What domains are sorted by; equal ones by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Time on pCPUs, most first.
    #[default]
    Cpu,
    /// Accelerations, most first.
    Accelerations,
    /// Number.
    Id,
    /// Name.
    Name,
}

impl Sort {
    /// The one after it, and after the last the first.
    pub fn next(self) -> Sort {
        match self {
            Sort::Cpu => Sort::Accelerations,
            Sort::Accelerations => Sort::Id,
            Sort::Id => Sort::Name,
            Sort::Name => Sort::Cpu,
        }
    }

    /// For the last line of the screen.
    pub fn name(self) -> &'static str {
        match self {
            Sort::Cpu => "CPU",
            Sort::Accelerations => "accelerations",
            Sort::Id => "ID",
            Sort::Name => "name",
        }
    }
}

/// A domain's column.
struct Column {
    group: &'static str,
    name: &'static str,
    width: usize,
    /// Width of the screen from which it is shown, and from which it is not.
    from: usize,
    to: usize,
    cell: fn(&DomainRow<'_>, f64) -> Option<String>,
}

const fn column(
    group: &'static str,
    name: &'static str,
    width: usize,
    from: usize,
    cell: fn(&DomainRow<'_>, f64) -> Option<String>,
) -> Column {
    Column { group, name, width, from, to: usize::MAX, cell }
}

const COLUMNS: [Column; 27] = [
    column("", "VCPU", 4, WIDE, |row, _| Some(row.view.vcpus.to_string())),
    column("", "Weight", 6, MOST, |row, _| row.view.scheduled.as_ref().map(|s| s.share.weight.to_string())),
    column("", "Cap", 4, MOST, |row, _| row.view.scheduled.as_ref().map(|s| s.share.cap.to_string())),
    column("", "Policy", 6, WIDE, |row, _| row.view.scheduled.as_ref().map(|s| policy(s.policy))),
    Column {
        to: WIDE,
        ..column("", "R", 1, 0, |row, _| {
            row.view.scheduled.as_ref().map(|s| if s.stats.ranges > 0 { "y" } else { "-" }.to_owned())
        })
    },
    column("", "Ranges", 6, WIDE, |row, _| row.view.scheduled.as_ref().map(|s| s.stats.ranges.to_string())),
    column("", "CPU%", 4, 0, |row, seconds| row.since.map(|s| percent(s.run_ns as f64, seconds * 1e9))),
    column("micro", "Mic%", 4, 0, |row, _| row.since.map(|s| percent(s.micro_ns as f64, s.run_ns as f64))),
    column("micro", "Runs", 5, WIDE, |row, seconds| per_second(row, seconds, |s| s.micro_runs)),
    column("micro", "Mean", 5, 0, |row, _| row.since.and_then(|s| mean(s.micro_ns, s.micro_runs))),
    column("yields/s", "IPI", 5, 0, |row, seconds| per_second(row, seconds, |s| s.yields_ipi)),
    column("yields/s", "Lock", 5, 0, |row, seconds| per_second(row, seconds, |s| s.yields_lock)),
    column("yields/s", "Other", 5, MOST, |row, seconds| per_second(row, seconds, |s| s.yields_other)),
    column("yields/s", "Kept", 5, 0, |row, seconds| per_second(row, seconds, |s| s.yields_kept)),
    column("preempted/s", "All", 5, WIDE, |row, seconds| per_second(row, seconds, |s| s.preempted)),
    column("preempted/s", "Crit", 5, WIDE, |row, seconds| per_second(row, seconds, |s| s.preempted_critical)),
    column("preempted/s", "Kick", 5, MOST, |row, seconds| per_second(row, seconds, |s| s.kicks_preempted)),
    column("accelerations/s", "IPI", 5, 0, |row, seconds| per_second(row, seconds, |s| s.accel_ipi)),
    column("accelerations/s", "Lock", 5, 0, |row, seconds| per_second(row, seconds, |s| s.accel_lock)),
    column("accelerations/s", "IRQ", 5, 0, |row, seconds| per_second(row, seconds, |s| s.accel_irq)),
    column("accelerations/s", "Pre", 5, 0, |row, seconds| per_second(row, seconds, |s| s.accel_preempt)),
    column("accelerations/s", "Grace", 5, WIDE, |row, seconds| per_second(row, seconds, |s| s.graces)),
    Column { to: MOST, ..column("", "Refus", 5, 0, |row, seconds| per_second(row, seconds, refused)) },
    column("refused/s", "Affin", 5, MOST, |row, seconds| per_second(row, seconds, |s| s.refused_affinity)),
    column("refused/s", "Limit", 5, MOST, |row, seconds| per_second(row, seconds, |s| s.refused_limit)),
    column("refused/s", "Full", 5, MOST, |row, seconds| per_second(row, seconds, |s| s.refused_full)),
    column("", "Cpupool", 10, MOST, |row, _| Some(cut(&row.view.pool, 10))),
];

fn accelerated(s: &Stats) -> u64 {
    s.accel_ipi + s.accel_lock + s.accel_irq + s.accel_preempt
}

fn refused(s: &Stats) -> u64 {
    s.refused_affinity + s.refused_limit + s.refused_full
}

fn per_second(row: &DomainRow<'_>, seconds: f64, counter: fn(&Stats) -> u64) -> Option<String> {
    row.since.map(|since| rate(counter(&since), seconds))
}

/// The name of the row, if it has one.
fn policy(policy: crate::hyper::safe::types::Policy) -> String {
    let named = [Row::None, Row::Paper, Row::Eager, Row::Borrow, Row::Grace];
    let name = named.into_iter().find(|row| row.policy() == policy).and_then(|row| {
        use clap::ValueEnum;
        row.to_possible_value().map(|value| value.get_name().to_owned())
    });
    name.unwrap_or_else(|| "own".to_owned())
}

/// The whole: title, cpupools with their pCPUs, domains in the order of `sort`. `width` is that of the screen.
pub fn lines(moment: &Moment<'_>, width: usize, sort: Sort) -> (Vec<Line>, Vec<Line>) {
    let width = width.max(LEAST);
    let mut top = vec![title(moment)];
    if moment.pools.is_empty() {
        top.push(plain("No cpupool is under microslice."));
        return (top, Vec::new());
    }
    top.push(plain(""));
    top.extend(pools(moment, width));
    top.push(plain(""));
    let (headings, rows) = domains(moment, width, sort);
    top.extend(headings);
    (top, rows)
}

fn title(moment: &Moment<'_>) -> Line {
    let day = moment.time % 86_400;
    let cpus: usize = moment.pools.iter().map(|row| row.pcpus.len()).sum();
    let mut text = format!(
        "microslice top  {:02}:{:02}:{:02} UTC  {}  {}  {}",
        day / 3_600,
        day / 60 % 60,
        day % 60,
        counted(moment.pools.len(), "cpupool"),
        counted(cpus, "pCPU"),
        counted(moment.domains.len(), "domain"),
    );
    if let Some(seconds) = moment.seconds {
        text += &format!("  over {seconds:.1} s");
    }
    plain(text)
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn pools(moment: &Moment<'_>, width: usize) -> Vec<Line> {
    let name_width = (width - 68).min(NAME);
    let mut lines = vec![heading(format!(
        "{:<name_width$} {:>5} {:>14} {:>6} {:>7} {:>5} {:>4} {:>5} {:>7} {:>6}",
        "Cpupool", "Micro", "Sizing", "Slice", "M-slice", "Runs", "Mic%", "Mean", "Longest", "Reject"
    ))];
    for row in &moment.pools {
        let Some(s) = &row.pool.schedule else { continue };
        let seconds = moment.seconds.unwrap_or(f64::NAN);
        let runs = row.since.map(|since| rate(since.micro_runs, seconds));
        let all = seconds * 1e9 * f64::from(s.nr_cpus.max(1));
        let share = row.since.map(|since| percent(since.micro_ns as f64, all));
        let mean = row.since.and_then(|since| mean(since.micro_ns, since.micro_runs));
        let sizing = match s.sizing {
            Sizing::Static => "static".to_owned(),
            Sizing::Paper => format!("paper {}-{}", s.min_micro, s.max_micro),
            Sizing::Adaptive => format!("adaptive {}-{}", s.min_micro, s.max_micro),
        };
        lines.push(plain(format!(
            "{} {:>5} {sizing:>14} {:>6} {:>7} {:>5} {:>4} {:>5} {:>7} {:>6}",
            padded(&row.pool.name, name_width),
            format!("{}/{}", s.cur_micro, s.nr_cpus),
            units::us(s.slice_us),
            units::us(s.micro_slice_us),
            dash(runs),
            dash(share),
            dash(mean),
            short_ns(s.micro_stay_max_ns),
            s.rejected,
        )));
        lines.extend(pcpus(row, width));
        if let Some(resized) = row.resized {
            lines.push(plain(format!(
                "  sizing: {} -> {} micro cores {:.0} s ago, {} since the start",
                resized.from,
                resized.to,
                resized.seconds_ago,
                counted(resized.times as usize, "change"),
            )));
        }
    }
    lines
}

/// One cell a pCPU; or, if that takes more than three lines, a mean for each kind.
fn pcpus(row: &PoolRow<'_>, width: usize) -> Vec<Line> {
    let cell = |pcpu: &Pcpu| {
        let busy = pcpu.busy_percent.map_or_else(|| "-".to_owned(), |busy| format!("{busy:.0}%"));
        format!("{:>4}{} {busy:>4}", pcpu.cpu, letter(pcpu.mode))
    };
    let each = (width - 8) / 10;
    if row.pcpus.len() <= 3 * each {
        let line = |(i, some): (usize, &[Pcpu])| {
            let cells: String = some.iter().map(cell).collect();
            plain(format!("{}{cells}", if i == 0 { "  pCPU  " } else { "        " }).trim_end())
        };
        return row.pcpus.chunks(each).enumerate().map(line).collect();
    }
    let group = |mode: Mode, name: &str| {
        let these: Vec<&Pcpu> = row.pcpus.iter().filter(|pcpu| pcpu.mode == mode).collect();
        let busy: Vec<f64> = these.iter().filter_map(|pcpu| pcpu.busy_percent).collect();
        let mean = (!busy.is_empty()).then(|| busy.iter().sum::<f64>() / busy.len() as f64);
        let mean = mean.map_or_else(String::new, |mean| format!(", {mean:.0}% busy"));
        (!these.is_empty()).then(|| format!("{} {name}{mean}", these.len()))
    };
    let groups = [(Mode::Normal, "normal"), (Mode::Micro, "micro"), (Mode::Reserved, "reserved micro")];
    let text: Vec<String> = groups.into_iter().filter_map(|(mode, name)| group(mode, name)).collect();
    vec![plain(format!("  pCPUs  {}", text.join("; ")))]
}

fn letter(mode: Mode) -> char {
    match mode {
        Mode::Normal => ' ',
        Mode::Micro => 'm',
        Mode::Reserved => 'r',
    }
}

fn domains(moment: &Moment<'_>, width: usize, sort: Sort) -> (Vec<Line>, Vec<Line>) {
    let columns: Vec<&Column> = COLUMNS.iter().filter(|c| c.from <= width && width < c.to).collect();
    let taken: usize = columns.iter().map(|c| c.width + 1).sum();
    // Name and number share what is left.
    let first = (width - taken).min(NAME + 6);
    let mut groups = format!("{:first$}", "");
    for run in columns.chunk_by(|a, b| a.group == b.group) {
        let wide = run.iter().map(|c| c.width + 1).sum::<usize>() - 1;
        let group = run.first().map_or("", |c| c.group);
        let fill = if group.is_empty() { ' ' } else { '-' };
        let left = wide.saturating_sub(group.len()) / 2;
        let right = wide.saturating_sub(group.len() + left);
        let dashes = |n: usize| fill.to_string().repeat(n);
        groups += &format!(" {}{group}{}", dashes(left), dashes(right));
    }
    let mut names = format!("{:<1$}ID", "Domain", first - 2);
    columns.iter().for_each(|c| names += &format!(" {:>1$}", c.name, c.width));
    let headings = vec![plain(groups.trim_end()), heading(names)];

    let mut rows: Vec<&DomainRow<'_>> = moment.domains.iter().collect();
    let counter = |row: &DomainRow<'_>, read: fn(&Stats) -> u64| row.since.as_ref().map_or(0, read);
    rows.sort_by(|a, b| {
        let by = match sort {
            Sort::Cpu => counter(b, |s| s.run_ns).cmp(&counter(a, |s| s.run_ns)),
            Sort::Accelerations => counter(b, accelerated).cmp(&counter(a, accelerated)),
            Sort::Id => std::cmp::Ordering::Equal,
            Sort::Name => a.view.name.cmp(&b.view.name),
        };
        by.then(a.view.domid.cmp(&b.view.domid))
    });
    let seconds = moment.seconds.unwrap_or(f64::NAN);
    let line = |row: &DomainRow<'_>| {
        let id = row.view.domid.to_string();
        let mut text =
            format!("{}{id}", padded(&cut(&row.view.display_name(), first - id.len() - 1), first - id.len()));
        columns.iter().for_each(|c| text += &format!(" {:>1$}", dash((c.cell)(row, seconds)), c.width));
        plain(text)
    };
    (headings, rows.into_iter().map(line).collect())
}

fn dash(cell: Option<String>) -> String {
    cell.unwrap_or_else(|| "-".to_owned())
}

/// Cells of a terminal.
fn cells(text: &str) -> usize {
    Span::raw(text).width()
}

/// At most so many cells, with a `~` for what was cut off; no control characters.
fn cut(text: &str, width: usize) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if cells(&text) <= width {
        return text;
    }
    let mut short = String::new();
    for c in text.chars() {
        let longer = format!("{short}{c}");
        if cells(&longer) + 1 > width {
            break;
        }
        short = longer;
    }
    short + "~"
}

/// Exactly so many cells.
fn padded(text: &str, width: usize) -> String {
    let text = cut(text, width);
    let space = width.saturating_sub(cells(&text));
    text + &" ".repeat(space)
}

/// A number a second in at most 5 characters.
fn rate(count: u64, seconds: f64) -> String {
    match count as f64 / seconds {
        0.0 => "0".to_owned(),
        rate if rate < 9.95 => format!("{rate:.1}"),
        rate if rate < 99_999.5 => format!("{rate:.0}"),
        rate if rate < 9_999_500.0 => format!("{:.0}k", rate / 1e3),
        rate => format!("{:.0}M", rate / 1e6),
    }
}

/// In at most 4 characters, up to 99 pCPUs.
fn percent(part: f64, whole: f64) -> String {
    let percent = if whole > 0.0 { part / whole * 100.0 } else { 0.0 };
    if percent < 99.95 { format!("{percent:.1}") } else { format!("{percent:.0}") }
}

/// A mean time in at most 5 characters; none of nothing.
fn mean(ns: u64, runs: u64) -> Option<String> {
    ns.checked_div(runs).map(short_ns)
}

fn short_ns(ns: u64) -> String {
    let us = ns as f64 / 1e3;
    match us {
        0.0 => "0".to_owned(),
        us if us < 9.95 => format!("{us:.1}us"),
        us if us < 999.5 => format!("{us:.0}us"),
        us if us < 9_950.0 => format!("{:.1}ms", us / 1e3),
        us if us < 999_500.0 => format!("{:.0}ms", us / 1e3),
        us => format!("{:.0}s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{Sizes, tests::readings};
    use super::*;
    use crate::cmd::pool;

    fn all(width: usize) -> Vec<Line> {
        let (old, new) = readings();
        let mut sizes = Sizes::default();
        sizes.note(&old);
        sizes.note(&new);
        let (mut top, rows) = lines(&Moment::of(Some(&old), &new, &sizes), width, Sort::Cpu);
        top.extend(rows);
        top
    }

    #[test]
    fn no_line_is_wider_than_the_screen_and_tables_are_flush() {
        for width in [80, 81, 100, 131, 132, 133, 171, 172, 300] {
            let lines = all(width);
            for line in &lines {
                assert!(cells(&line.text) <= width, "{width}: {}", line.text);
            }
            let table: Vec<usize> =
                lines.iter().skip_while(|l| !l.text.starts_with("Domain ")).map(|l| cells(&l.text)).collect();
            assert_eq!(table.len(), 4);
            assert!(table.iter().all(|w| *w == table[0]), "{width}: {table:?}");
        }
        assert_eq!(cells(&all(80).last().unwrap().text), 80);
    }

    #[test]
    fn every_column_is_there_from_the_greatest_width_on() {
        let shown = |width: usize| COLUMNS.iter().filter(|c| c.from <= width && width < c.to).count();
        assert_eq!(shown(MOST), COLUMNS.len() - 2, "all but those that stand for several");
        let taken = |width: usize| -> usize {
            COLUMNS.iter().filter(|c| c.from <= width && width < c.to).map(|c| c.width + 1).sum()
        };
        for width in [LEAST, WIDE, MOST] {
            assert!(taken(width) + 12 <= width, "{width}: {} for names", width - taken(width));
        }
    }

    #[test]
    fn names_are_cut_to_cells() {
        assert_eq!(cut("web", 3), "web");
        assert_eq!(cut("webserver", 6), "webse~");
        assert_eq!(cut("日本語", 5), "日本~");
        assert_eq!(padded("日本語", 4), "日~ ");
        assert_eq!(cut("a\x1b[2Jb", 9), "a?[2Jb");
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0, 3, 30, 250_000, 25_000_000, 2_500_000_000].map(|n| rate(n, 2.0));
        assert_eq!(shown, ["0", "1.5", "15", "125k", "12M", "1250M"]);
        assert_eq!(
            [(1.0, 3.0), (4.0, 1.0), (99.96, 100.0), (0.0, 0.0)].map(|(a, b)| percent(a, b)),
            ["33.3", "400", "100", "0.0"]
        );
        let times = [0, 1_500, 98_000, 999_600, 9_940_000, 30_000_000, 2_000_000_000].map(short_ns);
        assert_eq!(times, ["0", "1.5us", "98us", "1.0ms", "9.9ms", "30ms", "2s"]);
    }

    #[test]
    fn domains_are_sorted() {
        let (old, new) = readings();
        let first = |sort| {
            let moment = Moment::of(Some(&old), &new, &Sizes::default());
            lines(&moment, 80, sort).1[0].text.split_whitespace().next().unwrap().to_owned()
        };
        let mut sort = Sort::default();
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(first(sort));
            sort = sort.next();
        }
        assert_eq!(sort, Sort::Cpu);
        assert_eq!(seen, ["a-name-of-~", "a-name-of-~", "Domain-0", "Domain-0"]);
    }

    #[test]
    fn many_pcpus_are_told_by_kind() {
        let mut pool = pool::tests::sample(0, "Pool-0", Some(2));
        pool.cpus = (0..64).collect();
        if let Some(s) = &mut pool.schedule {
            (s.nr_cpus, s.micro_cpus, s.reserve) = (64, vec![62, 63], true);
        }
        let pcpus_of = |width| {
            let pcpu = |&cpu: &u32| Pcpu {
                cpu,
                mode: if cpu < 62 { Mode::Normal } else { Mode::Reserved },
                busy_percent: Some(f64::from(cpu)),
            };
            let row = PoolRow {
                pool: &pool,
                pcpus: pool.cpus.iter().map(pcpu).collect(),
                resized: None,
                since: None,
            };
            pcpus(&row, width).into_iter().map(|line| line.text).collect::<Vec<_>>()
        };
        assert_eq!(pcpus_of(80), ["  pCPUs  62 normal, 30% busy; 2 reserved micro, 62% busy"]);
        assert_eq!(pcpus_of(300).len(), 3);
    }

    #[test]
    fn nothing_to_show_is_said() {
        let (_, mut new) = readings();
        new.pools.clear();
        new.domains.clear();
        let (top, rows) = lines(&Moment::of(None, &new, &Sizes::default()), 80, Sort::Cpu);
        assert!(top[1].text == "No cpupool is under microslice." && rows.is_empty());
    }
}

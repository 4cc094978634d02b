// SPDX-License-Identifier: GPL-3.0-only
//! `microslice pool`. Writing commands are silent, as `xl`'s are, unless --json asks for the cpupool as it is now.

use crate::cli;
use crate::hyper::safe::Xen;
use crate::hyper::safe::error::Object;
use crate::hyper::safe::error::{Cause, Error, Op};
use crate::hyper::safe::types::{Pool, Schedule, Sizing};
use crate::out::{Column, cpu_list, json, or_dash, table};
use crate::units;
use anyhow::{Result, bail};

const COLUMNS: [Column; 7] =
    [("Name", 18), ("ID", 4), ("CPUs", 4), ("Sched", 10), ("Micro", 5), ("Slice", 8), ("Micro-slice", 11)];

/// Runs a command of the group.
pub fn run(command: &cli::Pool, as_json: bool) -> Result<String> {
    match command {
        cli::Pool::List { cpus } => {
            let pools = Xen::open()?.pools()?;
            match (as_json, cpus) {
                (true, _) => json(&pools),
                (false, true) => Ok(list_cpus(&pools)),
                (false, false) => Ok(list(&pools)),
            }
        }
        cli::Pool::Show { name } => {
            let pool = Xen::open()?.find_pool(name)?;
            if as_json { json(&pool) } else { Ok(show(&pool)) }
        }
        cli::Pool::Resize { pool, micro_cores } => change(pool.as_deref(), as_json, |schedule| {
            let now = if schedule.nr_groups > 1 { schedule.nr_micro } else { schedule.cur_micro };
            schedule.nr_micro = resized(now, *micro_cores)?;
            schedule.sizing = Sizing::Static;
            Ok(())
        }),
        cli::Pool::Auto(args) => change(args.pool.as_deref(), as_json, |schedule| {
            schedule.sizing = args.mode;
            schedule.min_micro = args.min.unwrap_or(schedule.min_micro);
            schedule.max_micro = args.max.unwrap_or(schedule.max_micro);
            Ok(())
        }),
        cli::Pool::Reserve { pool, state } => change(pool.as_deref(), as_json, |schedule| {
            schedule.reserve = *state == cli::OnOff::On;
            Ok(())
        }),
        cli::Pool::Slice(args) => change(args.pool.as_deref(), as_json, |schedule| {
            schedule.slice_us = args.normal.unwrap_or(schedule.slice_us);
            schedule.micro_slice_us = args.micro.unwrap_or(schedule.micro_slice_us);
            schedule.grace_us = args.grace.unwrap_or(schedule.grace_us);
            Ok(())
        }),
    }
}

/// How many micro cores there are to be where there are `now`.
fn resized(now: u32, wanted: cli::MicroCores) -> Result<u32, String> {
    match wanted {
        cli::MicroCores::Be(n) => Ok(n),
        cli::MicroCores::Change(by) => {
            now.checked_add_signed(by).ok_or_else(|| format!("{by:+} micro cores, where there are {now}"))
        }
    }
}

/// Reads a cpupool's parameters, edits them and sets them.
fn change(
    name: Option<&str>,
    as_json: bool,
    edit: impl FnOnce(&mut Schedule) -> Result<(), String>,
) -> Result<String> {
    let xen = Xen::open()?;
    let pool = match name {
        Some(name) => xen.find_pool(name)?,
        None => only_pool(xen.pools()?)?,
    };
    let Some(mut wanted) = pool.schedule.clone() else {
        let cause = Cause::OtherScheduler(pool.scheduler);
        return Err(Error { op: Op::SetPool, object: Object::Pool(pool.id, pool.name), cause }.into());
    };
    edit(&mut wanted)
        .map_err(|why| Error::refused(Op::SetPool, Object::Pool(pool.id, pool.name.clone()), why))?;
    let now = xen.set_pool(&pool, &wanted)?;
    if as_json { json(&now) } else { Ok(String::new()) }
}

/// Without --pool: the cpupool under microslice, if there is exactly one.
pub fn only_pool(pools: Vec<Pool>) -> Result<Pool> {
    let (mut ours, mut others): (Vec<Pool>, Vec<Pool>) =
        pools.into_iter().partition(|p| p.schedule.is_some());
    match (ours.len(), others.pop()) {
        (1, _) => Ok(ours.remove(0)),
        (0, Some(pool)) => {
            let cause = Cause::OtherScheduler(pool.scheduler);
            Err(Error { op: Op::SetPool, object: Object::Pool(pool.id, pool.name), cause }.into())
        }
        _ => {
            let names: Vec<String> = ours.into_iter().map(|p| format!("'{}'", p.name)).collect();
            bail!(
                "set parameters of cpupool: {} are under microslice: choose one with --pool",
                names.join(" and ")
            )
        }
    }
}

fn list(pools: &[Pool]) -> String {
    let row = |pool: &Pool| {
        let schedule = pool.schedule.as_ref();
        vec![
            pool.name.clone(),
            pool.id.to_string(),
            pool.cpus.len().to_string(),
            pool.scheduler.clone(),
            or_dash(schedule.map(|s| s.cur_micro)),
            or_dash(schedule.map(|s| units::us(s.slice_us))),
            or_dash(schedule.map(|s| units::us(s.micro_slice_us))),
        ]
    };
    table(&COLUMNS, &pools.iter().map(row).collect::<Vec<_>>())
}

fn list_cpus(pools: &[Pool]) -> String {
    let row = |pool: &Pool| {
        let micro = pool.schedule.as_ref().map_or(&[][..], |s| &s.micro_cpus);
        vec![pool.name.clone(), cpu_list(&pool.cpus), cpu_list(micro)]
    };
    table(&[("Name", 18), ("CPU list", 0), ("Micro list", 0)], &pools.iter().map(row).collect::<Vec<_>>())
}

fn sizing(s: &Schedule) -> String {
    let mode = match s.sizing {
        Sizing::Static => return "static".to_owned(),
        Sizing::Paper => "paper",
        Sizing::Adaptive => "adaptive",
    };
    format!("{mode}, {} to {}", s.min_micro, s.max_micro)
}

fn show(pool: &Pool) -> String {
    let mut lines = vec![
        ("name", pool.name.clone()),
        ("id", pool.id.to_string()),
        ("scheduler", pool.scheduler.clone()),
        ("cpus", cpu_list(&pool.cpus)),
        ("domains", pool.domains.to_string()),
    ];
    if let Some(s) = &pool.schedule {
        lines.extend([
            ("groups", s.nr_groups.to_string()),
            ("micro_cores", s.cur_micro.to_string()),
            ("micro_cpus", cpu_list(&s.micro_cpus)),
            ("reserved", s.reserve.to_string()),
            ("sizing", sizing(s)),
            ("slice", units::us(s.slice_us)),
            ("micro_slice", units::us(s.micro_slice_us)),
            ("grace", units::us(s.grace_us)),
            ("ratelimit", units::us(s.ratelimit_us)),
            ("micro_runs", s.micro_runs.to_string()),
            ("micro_time", units::ns(s.micro_ns)),
            ("micro_stay_max", units::ns(s.micro_stay_max_ns)),
            ("moves", s.moves.to_string()),
            ("reached", s.reached.to_string()),
            ("rejected", s.rejected.to_string()),
        ]);
    }
    lines.into_iter().map(|(key, value)| format!("{key:<23}: {value}\n")).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn sample(id: u32, name: &str, micro: Option<u32>) -> Pool {
        let schedule = micro.map(|nr_micro| Schedule {
            slice_us: 30_000,
            micro_slice_us: 100,
            ratelimit_us: 1_000,
            grace_us: 100,
            nr_micro,
            reserve: false,
            sizing: Sizing::Static,
            min_micro: 0,
            max_micro: 3,
            cur_micro: nr_micro,
            nr_cpus: 4,
            nr_groups: 1,
            micro_cpus: (4 - nr_micro..4).collect(),
            micro_runs: 1_200,
            micro_ns: 98_765_432,
            micro_stay_max_ns: 100_250,
            moves: 0,
            reached: 0,
            rejected: 0,
        });
        let scheduler = if micro.is_some() { "microslice" } else { "credit2" }.to_owned();
        Pool { id, name: name.into(), scheduler, cpus: vec![0, 1, 2, 3], domains: 2, schedule }
    }

    #[test]
    fn columns_of_pool_list() {
        insta::assert_snapshot!(list(&[sample(0, "Pool-0", None), sample(1, "micro", Some(2))]), @r"
        Name                 ID CPUs      Sched Micro    Slice Micro-slice
        Pool-0                0    4    credit2     -        -           -
        micro                 1    4 microslice     2     30ms       100us
        ");
    }

    #[test]
    fn pcpus_of_pool_list() {
        insta::assert_snapshot!(list_cpus(&[sample(0, "Pool-0", None), sample(1, "micro", Some(2))]), @r"
        Name               CPU list Micro list
        Pool-0             0-3      -
        micro              0-3      2-3
        ");
    }

    #[test]
    fn a_resize_is_to_a_number_or_by_one() {
        use cli::MicroCores::{Be, Change};
        assert_eq!([resized(2, Be(1)), resized(2, Change(1)), resized(2, Change(-2))], [Ok(1), Ok(3), Ok(0)]);
        assert_eq!(resized(0, Change(-1)), Err("-1 micro cores, where there are 0".to_owned()));
        assert_eq!(
            resized(u32::MAX, Change(1)),
            Err("+1 micro cores, where there are 4294967295".to_owned())
        );
    }

    #[test]
    fn lines_of_pool_show() {
        insta::assert_snapshot!(show(&sample(1, "micro", Some(1))), @r"
        name                   : micro
        id                     : 1
        scheduler              : microslice
        cpus                   : 0-3
        domains                : 2
        groups                 : 1
        micro_cores            : 1
        micro_cpus             : 3
        reserved               : false
        sizing                 : static
        slice                  : 30ms
        micro_slice            : 100us
        grace                  : 100us
        ratelimit              : 1ms
        micro_runs             : 1200
        micro_time             : 98.8ms
        micro_stay_max         : 100us
        moves                  : 0
        reached                : 0
        rejected               : 0
        ");
    }

    #[test]
    fn json_of_a_pool() {
        insta::assert_snapshot!(json(&sample(0, "Pool-0", Some(1))).unwrap(), @r#"
        {
          "id": 0,
          "name": "Pool-0",
          "scheduler": "microslice",
          "cpus": [
            0,
            1,
            2,
            3
          ],
          "domains": 2,
          "slice_us": 30000,
          "micro_slice_us": 100,
          "ratelimit_us": 1000,
          "grace_us": 100,
          "nr_micro": 1,
          "reserve": false,
          "sizing": "static",
          "min_micro": 0,
          "max_micro": 3,
          "cur_micro": 1,
          "nr_cpus": 4,
          "nr_groups": 1,
          "micro_cpus": [
            3
          ],
          "micro_runs": 1200,
          "micro_ns": 98765432,
          "micro_stay_max_ns": 100250,
          "moves": 0,
          "reached": 0,
          "rejected": 0
        }
        "#);
    }

    #[test]
    fn without_a_name_the_cpupool_must_be_the_only_one() {
        let none = only_pool(vec![sample(0, "Pool-0", None)]).unwrap_err().to_string();
        assert!(
            none.contains("cpupool 'Pool-0' (id 0): it is under scheduler 'credit2', not 'microslice'"),
            "{none}"
        );
        let two = only_pool(vec![sample(0, "a", Some(0)), sample(1, "b", Some(0))]).unwrap_err().to_string();
        assert_eq!(
            two,
            "set parameters of cpupool: 'a' and 'b' are under microslice: choose one with --pool"
        );
        assert_eq!(only_pool(vec![sample(0, "a", None), sample(1, "b", Some(0))]).unwrap().name, "b");
    }
}

// SPDX-License-Identifier: GPL-3.0-only
//! PID 1 of a lab guest: mounts, reads its order from /proc/cmdline, runs it, reports, ends.
//!
//! As an ordinary process it takes the same words as arguments and exits instead of powering off.

use microslice_guest::job::{End, Order};
use microslice_guest::protocol::{self, Event};
use microslice_guest::workload::{self, Guest};
use microslice_guest::{sys, work};
use std::io::{Result, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let init = std::process::id() == 1;
    let outcome = if init {
        prepare().and_then(|()| std::fs::read_to_string("/proc/cmdline"))
    } else {
        Ok(arguments())
    };
    let end = outcome.and_then(|text| run(&text));
    let failed = end.is_err();
    let end = end.unwrap_or_else(|error| {
        report(&Event::Failed { error: error.to_string() });
        End::Idle
    });
    if !init {
        return if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    if end == End::PowerOff {
        report(&Event::Failed { error: format!("power off: {}", sys::power_off()) });
    }
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3_600));
    }
}

fn arguments() -> String {
    std::env::args().skip(1).collect::<Vec<_>>().join(" ")
}

fn prepare() -> Result<()> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/tmp"), ("tmpfs", "/run")] {
        sys::mount(kind, target)?;
    }
    // The kernel may have mounted devtmpfs already.
    sys::mount("devtmpfs", "/dev")
        .or_else(|error| if error.raw_os_error() == Some(libc::EBUSY) { Ok(()) } else { Err(error) })
}

fn run(text: &str) -> Result<End> {
    let order = Order::parse(text).map_err(std::io::Error::other)?;
    report(&Event::Booted { t_ns: sys::shared_ns() });
    std::thread::sleep(std::time::Duration::from_millis(order.wait_ms));
    // The wait is there for dom0 to pause this guest in; what comes after it must not meet dom0 at work.
    std::thread::sleep(std::time::Duration::from_millis(order.wait_ms / 2));
    let (vcpus, batches) = (sys::cpus(), work::calibrate());
    let work_per_ms = work::median(&batches);
    report(&Event::Ready { t_ns: sys::shared_ns(), vcpus, work_per_ms, batches });
    let guest = Guest { vcpus, seed: order.seed, work_per_ms, report: &report };
    for job in &order.jobs {
        let result = workload::run(job, &guest)?;
        if std::process::id() != 1 {
            eprintln!("{result}");
        }
        report(&Event::Result(result));
    }
    report(&Event::Done { t_ns: sys::shared_ns() });
    Ok(order.end)
}

/// One write a line, so that lines of one guest never mix.
fn report(event: &Event) {
    let text = protocol::line(event) + "\n";
    let mut out = std::io::stdout().lock();
    // Nowhere to report a broken console to.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

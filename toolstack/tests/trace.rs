// SPDX-License-Identifier: GPL-3.0-only
//! `microslice trace` on a trace of real Xen: tests/fixtures/pool.trace, which `cargo xtask e2e` leaves as
//! target/e2e/pool.trace. It has to be taken anew when the scheduler's state or decisions change on purpose.

use assert_cmd::Command;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/pool.trace")
}

fn microslice(args: &[&str], file: &Path) -> (i32, String, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_microslice")).args(args).arg(file).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
}

/// The fixture's bytes, changed.
fn changed(edit: impl FnOnce(&mut Vec<u8>)) -> (TempDir, PathBuf) {
    let mut bytes = Vec::new();
    GzDecoder::new(std::fs::File::open(fixture()).unwrap()).read_to_end(&mut bytes).unwrap();
    edit(&mut bytes);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.trace");
    let mut out = GzEncoder::new(std::fs::File::create(&path).unwrap(), Compression::fast());
    out.write_all(&bytes).unwrap();
    out.finish().unwrap();
    (folder, path)
}

/// Where the records begin.
fn records(bytes: &[u8]) -> usize {
    let after = |at: usize| at + 8 + u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    after(after(16))
}

#[test]
fn a_trace_of_real_xen_replays_without_a_difference() {
    let (status, out, err) = microslice(&["trace", "replay"], &fixture());
    assert_eq!(status, 0, "{err}");
    assert!(out.ends_with(": every decision is the same\n"), "{out}");
    let (_, out, _) = microslice(&["--json", "trace", "replay"], &fixture());
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(report["events"].as_u64().unwrap() > 100 && report["differences"] == 0, "{out}");
}

#[test]
fn the_first_decision_that_differs_is_named() {
    // Event 20 was decided otherwise: one bit of its digest.
    let (_folder, path) = changed(|bytes| {
        let at = records(bytes) + 20 * 48 + 32;
        bytes[at] ^= 1;
    });
    let (status, out, err) = microslice(&["trace", "replay"], &path);
    assert_eq!((status, &*out), (1, ""));
    assert!(err.contains("event 20 at 0.") && err.contains("the events before it gave the same"), "{err}");
}

#[test]
fn events_are_shown_in_words() {
    let (status, out, err) = microslice(&["trace", "show", "--limit", "1000"], &fixture());
    assert_eq!(status, 0, "{err}");
    assert_eq!(out.lines().count(), 1000);
    for words in [
        "yields in ipi-wait",
        "keeps its pCPU",
        "gets an event",
        " runs for ",
        "preempted on pCPU",
        "pokes pCPU",
    ] {
        assert!(out.contains(words), "nothing {words} in\n{out}");
    }
}

/// Of the first yield of a guest in its kernel: domain, vCPU, address; and the domain's name and MSR_LSTAR.
fn a_yield(bytes: &[u8]) -> (u32, u32, u64, String, u64) {
    let begin = 24 + u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize + 8;
    let guests: serde_json::Value = serde_json::from_slice(&bytes[begin..records(bytes)]).unwrap();
    let hex = |text: &str| u64::from_str_radix(&text[2..], 16).unwrap();
    for record in bytes[records(bytes)..].chunks_exact(48) {
        let word = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().unwrap());
        let (rip, who) = (u64::from_le_bytes(record[8..16].try_into().unwrap()), word(28));
        let domain = who >> 16 & 0x7fff;
        let guest = guests.as_array().unwrap().iter().find(|guest| guest["domid"] == domain);
        if record[40] == 11
            && rip != 0
            && let Some(lstar) = guest.and_then(|guest| guest["lstar"].as_str())
        {
            let name = guest.unwrap()["name"].as_str().unwrap().to_owned();
            return (domain, who & 0xffff, rip, name, hex(lstar));
        }
    }
    panic!("no guest yields in its kernel");
}

#[test]
fn vcpus_have_names_and_so_has_their_kernels_code() {
    let (folder, path) = changed(|_| ());
    let mut bytes = Vec::new();
    GzDecoder::new(std::fs::File::open(&path).unwrap()).read_to_end(&mut bytes).unwrap();
    let (domain, vcpu, rip, name, lstar) = a_yield(&bytes);
    // The kernel was linked 2 MiB below where it runs, or runs where it was linked.
    let map = |file: &str, off: u64, slide: u64| {
        let mut symbols = [
            (lstar - slide + off, "T entry_SYSCALL_64"),
            (rip - slide - 0x1a, "t waits_here"),
            (rip - slide + 0x1000, "T _etext"),
            (0, "A fixed_percpu_data"),
            (0xffff_ffff_8000_0000, "T _stext"),
        ];
        symbols.sort_unstable();
        let lines: Vec<String> = symbols.iter().map(|(at, name)| format!("{at:016x} {name}\n")).collect();
        let path = folder.path().join(file);
        std::fs::write(&path, lines.concat()).unwrap();
        path.display().to_string()
    };
    let (_, out, _) = microslice(&["trace", "show"], &path);
    let plain = format!("d{domain}v{vcpu} yields in ");
    let line = out.lines().find(|line| line.contains(&plain) && line.contains(&format!("{rip:#x}")));
    assert!(line.is_some(), "nothing {plain} at {rip:#x} in\n{out}");
    assert!(!out.contains("unit "), "{out}");
    let right = map("System.map", 0, 0x20_0000);
    let unmoved = map("unmoved", 0, 0);
    for symbols in [right.clone(), unmoved, format!("{name}={right}"), format!("{domain}={right}")] {
        let (status, out, err) = microslice(&["trace", "show", "--symbols", &symbols], &path);
        let words = format!("d{domain}v{vcpu} yields in waits_here+0x1a (");
        assert!(status == 0 && out.contains(&words), "{symbols}: nothing {words} in\n{err}{out}");
        // Xen notes 0 for user mode.
        assert!(!out.contains("fixed_percpu_data"), "{out}");
    }
    let (status, out, err) = microslice(&["trace", "export", "--symbols", &right], &path);
    assert!(status == 0 && out.contains(r#""at":"waits_here+0x1a""#), "{err}");
    for (symbols, why) in [
        (map("other", 0x40, 0x20_0000), "not of the kernel that a domain of the trace runs"),
        (
            format!("{name}={}", map("other", 0x40, 0x20_0000)),
            "not of the kernel that a domain of the trace runs",
        ),
        (format!("nobody={right}"), "the trace has no domain 'nobody', but "),
        (folder.path().join("none").display().to_string(), "No such file"),
    ] {
        let (status, out, err) = microslice(&["trace", "show", "--symbols", &symbols], &path);
        assert!(status == 1 && out.is_empty() && err.contains(why), "{symbols}: {err}");
    }
}

#[test]
fn an_export_is_whole_json_with_a_track_for_each_pcpu_on_which_nothing_overlaps() {
    let (status, out, err) = microslice(&["trace", "export", "--format", "chrome"], &fixture());
    assert_eq!((status, &*err), (0, ""));
    let begins = [
        r#"{"displayTimeUnit":"ms","traceEvents":["#,
        r#"{"args":{"name":"pCPUs"},"name":"process_name","ph":"M","pid":1}"#,
        r#"{"args":{"name":"scheduler"},"name":"process_name","ph":"M","pid":2}"#,
        r#"{"args":{"name":"accelerations"},"name":"thread_name","ph":"M","pid":2,"tid":11}"#,
        r#"{"args":{"name":"settings and sizing"},"name":"thread_name","ph":"M","pid":2,"tid":12}"#,
        r#"{"args":{"name":"pCPU 0"},"name":"thread_name","ph":"M","pid":1,"tid":100}"#,
        r#"{"args":{"sort_index":100},"name":"thread_sort_index","ph":"M","pid":1,"tid":100}"#,
    ];
    for (line, begin) in out.lines().zip(begins) {
        assert_eq!(line.trim_end_matches(','), begin);
    }
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    let events = value["traceEvents"].as_array().unwrap();
    let of = |ph: &str| events.iter().filter(|e| e["ph"] == ph).collect::<Vec<_>>();
    let (mut now, mut open) = (0.0, std::collections::BTreeMap::new());
    for event in events.iter().filter(|e| e["ph"] != "M") {
        let (ts, tid) = (event["ts"].as_f64().unwrap(), event["tid"].as_u64().unwrap());
        assert!(ts >= now, "goes back: {event}");
        now = ts;
        match event["ph"].as_str().unwrap() {
            "B" => assert_eq!(open.insert(tid, &event["name"]), None, "begins in another: {event}"),
            "E" => assert_eq!(open.remove(&tid), Some(&event["name"]), "ends another: {event}"),
            _ => {}
        }
    }
    assert!(open.is_empty(), "has no end: {open:?}");
    let tracks: Vec<&str> = of("M").iter().filter_map(|e| e["args"]["name"].as_str()).collect();
    assert!(["pCPU 0", "pCPU 1", "pCPU 2", "pCPU 3"].iter().all(|name| tracks.contains(name)), "{tracks:?}");
    let slices = of("B");
    let micro = slices.iter().filter(|e| e["cat"] == "micro" && e["args"]["why"].is_string()).count();
    assert!(micro > 10 && slices.len() > micro, "{micro} of {}", slices.len());
    for cat in ["yield", "acceleration"] {
        assert!(of("i").iter().any(|e| e["cat"] == cat && e["s"] == "t"), "no {cat}");
    }
    assert!(of("C").iter().any(|e| e["args"]["cores"].is_u64()));
    // As many as `show` tells of, besides what ran already; one that stays begins anew only in a slice of the other kind.
    let (_, shown, _) = microslice(&["trace", "show"], &fixture());
    let runs =
        shown.lines().filter(|line| line.contains(" runs for ") && !line.contains(" stays on ")).count();
    let already = slices.iter().filter(|e| e["args"]["began"].is_string()).count();
    let begun = slices.len() - already;
    assert!((runs..=runs + runs / 10).contains(&begun), "{begun} slices, {runs} decisions");
}

#[test]
fn an_export_to_a_file_is_whole_or_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("pool.json");
    let (status, out, err) = microslice(&["trace", "export", "-o", to.to_str().unwrap()], &fixture());
    assert_eq!((status, &*out, &*err), (0, "", ""));
    let whole = std::fs::read_to_string(&to).unwrap();
    assert_eq!(whole, microslice(&["trace", "export"], &fixture()).1);
    let (_other, cut) = changed(|bytes| bytes.truncate(bytes.len() - 1));
    let (status, _, err) = microslice(&["trace", "export", "-o", to.to_str().unwrap()], &cut);
    assert!(status == 1 && err.contains("the file ends inside it"), "{err}");
    let (_other, differs) = changed(|bytes| {
        let at = records(bytes) + 20 * 48 + 32;
        bytes[at] ^= 1;
    });
    let (status, _, err) = microslice(&["trace", "export", "-o", to.to_str().unwrap()], &differs);
    assert!(
        status == 1 && err.contains("decides event 20 otherwise; see `microslice trace replay`"),
        "{err}"
    );
    assert_eq!(std::fs::read_to_string(&to).unwrap(), whole);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing half is left");
}

#[test]
fn what_is_no_trace_or_a_damaged_one_says_so() {
    type Edit = fn(&mut Vec<u8>);
    let cases: [(&str, Edit); 11] = [
        ("not a trace", |b| b[0] ^= 1),
        ("not a trace", |b| b.truncate(10)),
        ("its format is version 9, not 2", |b| b[8] = 9),
        ("recorded under version 255 of the scheduler's state", |b| b[12] = 255),
        ("the file ends inside the scheduler's state", |b| b.truncate(1_000)),
        ("the scheduler's state of 72057594037927936 bytes, more than 16777216", |b| {
            b[16..24].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1])
        }),
        ("the list of guests: ", |b| {
            let at = records(b) - 2;
            b[at] = b'x';
        }),
        ("the scheduler's state: it does not begin as a pool's state does", |b| b[24] ^= 1),
        ("event 0: kind 99 with these values is no event", |b| {
            let at = records(b) + 40;
            b[at] = 99;
        }),
        ("the file ends inside it", |b| b.truncate(b.len() - 1)),
        ("events are missing", |b| drop(b.drain(records(b)..records(b) + 48))),
    ];
    for (words, edit) in cases {
        let (_folder, path) = changed(edit);
        for command in ["replay", "show", "export"] {
            let (status, out, err) = microslice(&["trace", command], &path);
            // An export is written as it is read.
            assert!(status == 1 && (out.is_empty() || command == "export"), "{command}: {words}: {err}");
            assert!(err.contains(words) && err.contains("changed.trace"), "{command}: {words}: {err}");
        }
    }
    let (status, _, err) = microslice(&["trace", "replay"], Path::new("/nonexistent.trace"));
    assert!(status == 1 && err.contains("open /nonexistent.trace"), "{err}");
}

// SPDX-License-Identifier: GPL-3.0-only
//! The binary as its user meets it, on a machine without Xen: usage, bad input, and who is told what. What hypercalls
//! do on real Xen is tested in the lab.

use assert_cmd::Command;
use std::path::{Path, PathBuf};
use std::{fs, str};

fn microslice(args: &[&str]) -> (i32, String, String) {
    let output = Command::cargo_bin("microslice").unwrap().args(args).output().unwrap();
    let text = |bytes: &[u8]| str::from_utf8(bytes).unwrap().to_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// Runs a command that must fail with exit code 1, print nothing but one line of error, and returns that line.
fn fails(args: &[&str]) -> String {
    let (code, out, err) = microslice(args);
    assert_eq!((code, out.as_str()), (1, ""), "{args:?}: {err}");
    assert!(
        err.starts_with("microslice: ") && err.ends_with('\n') && err.lines().count() == 1,
        "{args:?}: {err}"
    );
    err.trim_end().to_owned()
}

fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> String {
    let path: PathBuf = dir.join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A small System.map with symbols of several classes.
fn system_map() -> String {
    "ffffffff81000000 T _stext\n\
     ffffffff81001000 T native_queued_spin_lock_slowpath\n\
     ffffffff81001400 T something_else\n\
     ffffffff81002000 T smp_call_function_many_cond\n\
     ffffffff81002800 T another\n\
     ffffffff81a00080 T entry_SYSCALL_64\n\
     ffffffff81a00200 T after\n\
     ffffffff82000000 T _etext\n"
        .to_owned()
}

fn on_xen() -> bool {
    Path::new("/dev/xen/privcmd").exists() || Path::new("/proc/xen/privcmd").exists()
}

#[test]
fn wrong_usage_is_exit_code_2_and_says_what_was_expected() {
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage: microslice"),
        (&["pool"], "Usage: microslice pool"),
        (&["poll"], "unrecognized subcommand 'poll'"),
        (&["pool", "resize"], "<MICRO_CORES>"),
        (
            &["pool", "resize", "many"],
            "'many' is not a number of micro cores: expected N, +N or -N, as in 2, +1, -1",
        ),
        (&["pool", "resize", "+"], "'+' is not a number of micro cores"),
        (&["pool", "resize", "-x"], "unexpected argument '-x'"),
        (&["pool", "auto", "--mode", "fast"], "[possible values: static, paper, adaptive]"),
        (&["pool", "auto", "--min", "-1"], "unexpected argument '-1'"),
        (&["pool", "reserve", "perhaps"], "[possible values: on, off]"),
        (&["pool", "slice", "--normal", "0.1us"], "'0.1us' is not a whole number of microseconds"),
        (&["pool", "slice", "--normal", "5000s"], "'5000s' is too long a time"),
        (
            &["domain", "set", "web", "--policy", "fast"],
            "[possible values: none, paper, eager, borrow, grace]",
        ),
        (&["domain", "policy", "web"], "<ROW>"),
        (
            &["domain", "policy", "web", "--event", "boost"],
            "[possible values: none, micro, borrow, grace, front]",
        ),
        (&["top", "--delay", "0"], "'0' is not a number of seconds from 0.1 to 86400"),
        (&["top", "-n", "0"], "0 is not in 1.."),
        (&["trace", "record", "--seconds", "0", "f"], "'0' is not a number of seconds from 0.001 to 86400"),
        (&["trace", "record", "--room", "262145", "f"], "262145 is not in 1..=262144"),
        (&["trace", "record"], "<OUTPUT>"),
        (&["trace", "replay"], "<FILE>"),
        (&["trace", "show", "--limit", "all", "f"], "invalid value 'all'"),
        (&["trace", "export", "--format", "svg", "f"], "[possible values: chrome]"),
        (&["completions", "ksh"], "invalid value 'ksh'"),
        (&["man"], "<DIR>"),
        (&["pool", "slice"], "--normal <TIME>"),
        (&["pool", "slice", "--micro", "100"], "'100' is not a time"),
        (&["domain", "set", "web"], "--weight <WEIGHT>"),
        (&["domain", "set", "web", "--weight", "0"], "0 is not in 1..=65535"),
        (&["domain", "set", "web", "--cap", "70000"], "70000 is not in 0..=65535"),
        (&["symbols", "push", "web"], "<FILE>"),
        (&["symbols", "push", "web", "f", "--slide", "far"], "'far' is not a number"),
        (&["symbols", "show", "f", "--explain", "12"], "'12' is not an address"),
        (&["symbols", "show", "f", "--explain", "0x1", "--ranges"], "cannot be used with"),
        (&["policy", "check"], "<FILE>"),
        (&["policy", "apply", "--dry-run"], "<FILE>"),
    ];
    let mut differ = String::new();
    for (args, expected) in cases {
        let (code, out, err) = microslice(args);
        if (code, out.as_str()) != (2, "") || !err.contains(expected) {
            differ += &format!("{args:?}: status {code}, wanted {expected}\n{out}{err}\n");
        }
    }
    assert!(differ.is_empty(), "{differ}");
}

#[test]
fn help_teaches_with_examples() {
    for args in [
        &["--help"][..],
        &["pool", "resize", "--help"],
        &["pool", "slice", "--help"],
        &["symbols", "import", "--help"],
        &["symbols", "push", "--help"],
        &["symbols", "show", "--help"],
        &["doctor", "--help"],
        &["top", "--help"],
        &["trace", "record", "--help"],
        &["trace", "replay", "--help"],
        &["trace", "show", "--help"],
        &["trace", "export", "--help"],
        &["domain", "set", "--help"],
        &["stats", "--help"],
        &["policy", "check", "--help"],
        &["policy", "apply", "--help"],
        &["policy", "dump", "--help"],
        &["daemon", "--help"],
        &["completions", "--help"],
        &["man", "--help"],
    ] {
        let (code, out, err) = microslice(args);
        assert_eq!((code, err.as_str()), (0, ""), "{args:?}");
        assert!(out.contains("Example") && out.contains("\n  microslice "), "{args:?}: {out}");
    }
}

#[test]
fn without_xen_every_command_that_needs_it_says_so() {
    if on_xen() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let map = write(dir.path(), "System.map", system_map());
    let policy = write(dir.path(), "policy.yaml", "microslice-policy: 1\n");
    let nowhere = dir.path().join("pool.trace").to_str().unwrap().to_owned();
    for args in [
        &["pool", "list"][..],
        &["policy", "apply", policy.as_str()],
        &["policy", "apply", "--dry-run", policy.as_str()],
        &["policy", "dump"],
        &["daemon", "--policy", policy.as_str()],
        &["pool", "list", "-c"],
        &["pool", "show", "Pool-0"],
        &["pool", "resize", "1"],
        &["pool", "resize", "+1"],
        &["pool", "resize", "-1"],
        &["pool", "auto"],
        &["pool", "reserve", "on"],
        &["domain", "policy", "web", "paper"],
        &["trace", "record", nowhere.as_str()],
        &["pool", "slice", "--micro", "100us"],
        &["symbols", "push", "web", map.as_str()],
        &["symbols", "drop", "web"],
        &["domain", "list"],
        &["domain", "show", "web"],
        &["domain", "set", "web", "--weight", "512"],
        &["stats", "--json"],
        &["top", "--batch", "-n", "1"],
        &["top", "--json"],
    ] {
        let error = fails(args);
        assert_eq!(
            error,
            "microslice: open the hypervisor: no Xen here: this kernel does not run on the Xen hypervisor \
             (no /dev/xen/privcmd)",
            "{args:?}"
        );
    }
}

#[test]
fn what_is_not_a_kernel_is_refused_before_xen_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        (write(dir.path(), "text", "hello\nworld\n"), "not a kernel image"),
        (write(dir.path(), "nothing", ""), "empty file"),
        (
            write(dir.path(), "cut-elf", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0"),
            "truncated or damaged ELF",
        ),
        (dir.path().join("absent").to_str().unwrap().to_owned(), "No such file or directory"),
    ];
    for (file, why) in &cases {
        for args in
            [&["symbols", "import", file][..], &["symbols", "show", file], &["symbols", "push", "web", file]]
        {
            let error = fails(args);
            assert!(error.contains(file.as_str()) && error.contains(why), "{args:?}: {error}");
            assert_eq!(error.matches(why).count(), 1, "the cause is said once: {error}");
        }
    }
}

#[test]
fn bad_range_files_are_refused_with_the_range() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, ranges: &[(u64, u64)]| {
        let mut text = "# made by hand\nmicroslice-ranges: 1\nranges:\n".to_owned();
        for (start, end) in ranges {
            text += &format!("- {{start: '{start:#x}', end: '{end:#x}', class: irq, names: []}}\n");
        }
        write(dir.path(), name, text)
    };
    let many: Vec<(u64, u64)> = (0..4097).map(|i| (i * 16, i * 16 + 8)).collect();
    let cases = [
        (
            file("unsorted.yaml", &[(0x20, 0x30), (0x10, 0x18)]),
            "range 2 (0x10) comes after range 1 (0x20): not sorted",
        ),
        (file("overlap.yaml", &[(0x10, 0x30), (0x20, 0x38)]), "range 2 (0x20) overlaps range 1 (to 0x30)"),
        (file("empty.yaml", &[(0x10, 0x10)]), "range 1 (0x10 to 0x10) is empty"),
        (file("many.yaml", &many), "4097 ranges: a domain may have 4096"),
        (
            write(dir.path(), "cut.json", "{\"microslice-ranges\": 1, \"ranges\": [{\"start\""),
            "EOF while parsing",
        ),
        (
            write(dir.path(), "key.yaml", "microslice-ranges: 1\nranges: []\ncolour: red\n"),
            "unknown field `colour`",
        ),
        (
            write(dir.path(), "format.yaml", "microslice-ranges: 2\nranges: []\n"),
            "format 2 of a range file: this microslice reads 1",
        ),
        (
            write(
                dir.path(),
                "class.yaml",
                "microslice-ranges: 1\nranges: [{start: '0x10', end: '0x20', class: fast, names: []}]\n",
            ),
            "fast",
        ),
        (
            write(dir.path(), "anchor.yaml", "microslice-ranges: 1\nentry_SYSCALL_64: here\nranges: []\n"),
            "entry_SYSCALL_64: 'here' is not an address: expected 0x and hex digits",
        ),
        (
            write(
                dir.path(),
                "long.yaml",
                format!("microslice-ranges: 1\nranges: []\n#{}\n", "x".repeat(16 << 20)),
            ),
            "longer than 16777216 bytes",
        ),
    ];
    for (path, why) in &cases {
        for args in [&["symbols", "show", path][..], &["symbols", "push", "0", path, "--slide", "none"]] {
            let error = fails(args);
            assert!(error.contains(path.as_str()) && error.contains(why), "{args:?}: {error}");
        }
    }
}

#[test]
fn import_writes_what_show_and_push_read() {
    let dir = tempfile::tempdir().unwrap();
    let map = write(dir.path(), "System.map", system_map());
    for name in ["ranges.yaml", "ranges.json"] {
        let output = dir.path().join(name).to_str().unwrap().to_owned();
        let (code, out, err) = microslice(&["symbols", "import", &map, "-o", &output]);
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(out.ends_with(&format!("2 ranges written to {output}\n")), "{out}");
        let (code, shown, _) = microslice(&["symbols", "show", &output, "--ranges"]);
        assert_eq!(code, 0);
        assert_eq!(
            shown,
            "Start                             End      Class Symbols\n\
             0xffffffff81001000 0xffffffff81001400  lock-wait native_queued_spin_lock_slowpath\n\
             0xffffffff81002000 0xffffffff81002800   ipi-wait smp_call_function_many_cond\n"
        );
        assert_eq!(microslice(&["symbols", "show", &map, "--ranges"]).1, shown);
        let (_, classes, _) = microslice(&["symbols", "show", &output]);
        assert!(classes.contains("\nipi-wait      1 ranges    2048 bytes\n"), "{classes}");
        assert!(fails(&["symbols", "show", &output, "--explain", "0x1"]).ends_with("name the kernel image"));
    }
    let (code, out, _) = microslice(&["symbols", "import", &map, "--json"]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 0);
    assert_eq!(value["entry_SYSCALL_64"], "0xffffffff81a00080");
    assert_eq!(value["ranges"][0]["class"], "lock-wait");
    assert_eq!(value["report"]["ranges"], 2);
}

#[test]
fn a_failed_import_leaves_the_old_output() {
    let dir = tempfile::tempdir().unwrap();
    let old = write(dir.path(), "ranges.yaml", "old");
    let bad = write(dir.path(), "bad", "not a kernel\n");
    fails(&["symbols", "import", &bad, "-o", &old]);
    assert_eq!(fs::read_to_string(&old).unwrap(), "old");
    let map = write(dir.path(), "System.map", system_map());
    let nowhere = dir.path().join("no/such/dir.yaml").to_str().unwrap().to_owned();
    let error = fails(&["symbols", "import", &map, "-o", &nowhere]);
    assert!(error.starts_with(&format!("microslice: write {nowhere}: No such file")), "{error}");
}

#[test]
fn a_bad_catalogue_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let map = write(dir.path(), "System.map", system_map());
    let catalogue = write(dir.path(), "catalogue.yaml", "symbols:\n  - name: a\n    class: spinning\n");
    let error = fails(&["symbols", "import", &map, "--catalog", &catalogue]);
    assert!(
        error.contains("catalogue.yaml:3:12: ") && error.contains("unknown variant `spinning`"),
        "{error}"
    );
    let none = dir.path().join("none.yaml").to_str().unwrap().to_owned();
    assert_eq!(
        fails(&["symbols", "show", &map, "--catalog", &none]),
        format!("microslice: read catalogue {none}: No such file or directory (os error 2)")
    );
    // Nothing that the catalogue knows.
    let other = write(
        dir.path(),
        "other.map",
        "ffffffff81000000 T _stext\nffffffff81001000 T start_kernel\nffffffff81002000 T mine\nffffffff82000000 T _etext\n",
    );
    assert_eq!(
        fails(&["symbols", "import", &other]),
        format!("microslice: {other}: a kernel, but it has none of the catalogued symbols")
    );
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    use std::process::{Command as Process, Stdio};
    let binary = assert_cmd::cargo::cargo_bin("microslice");
    let dir = tempfile::tempdir().unwrap();
    let ranges: String = (0..4000u64)
        .map(|i| {
            format!(
                "- {{start: '{:#x}', end: '{:#x}', class: irq, names: [s{i}]}}\n",
                i * 16 + 16,
                i * 16 + 24
            )
        })
        .collect();
    let file = write(dir.path(), "many.yaml", format!("microslice-ranges: 1\nranges:\n{ranges}"));
    let mut child = Process::new(binary)
        .args(["symbols", "show", &file, "--ranges"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn a_policy_is_checked_without_xen() {
    let dir = tempfile::tempdir().unwrap();
    let good =
        write(dir.path(), "good.yaml", "microslice-policy: 1\ndomains:\n- name: '*'\n  policy: borrow\n");
    assert_eq!(microslice(&["policy", "check", &good]), (0, String::new(), String::new()));
    assert!(microslice(&["policy", "check", "--json", &good]).1.contains("\"valid\": true"));
    let bad = write(dir.path(), "bad.yaml", "microslice-policy: 1\ndomains:\n- name: '*'\n  weight: heavy\n");
    let message = format!(
        "microslice: {bad}:4:11: domains[0].weight: invalid type: string \"heavy\", expected a weight, 1 to 65535"
    );
    for args in
        [&["policy", "check", &bad][..], &["policy", "apply", &bad], &["policy", "apply", "--dry-run", &bad]]
    {
        assert_eq!(fails(args), message);
    }
    let long = write(dir.path(), "long.yaml", format!("microslice-policy: 1\n#{}\n", "x".repeat(1 << 20)));
    assert!(fails(&["policy", "check", &long]).contains(": longer than "));
    let none = dir.path().join("none").to_str().unwrap().to_owned();
    assert_eq!(
        fails(&["policy", "check", &none]),
        format!("microslice: read policy {none}: No such file or directory (os error 2)")
    );
}

#[test]
fn top_needs_a_terminal_or_batch() {
    assert_eq!(fails(&["top"]), "microslice: draw on standard output: it is no terminal: give --batch");
}

#[test]
fn a_full_disk_is_told() {
    use std::process::{Command as Process, Stdio};
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let done = Process::new(assert_cmd::cargo::cargo_bin("microslice"))
        .args(["completions", "bash"])
        .stdout(Stdio::from(full))
        .output()
        .unwrap();
    let error = str::from_utf8(&done.stderr).unwrap();
    assert_eq!(
        (done.status.code(), error),
        (Some(1), "microslice: write to standard output: No space left on device (os error 28)\n")
    );
}

#[test]
fn completions_and_man_pages_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, err) = microslice(&["completions", shell]);
        assert_eq!((code, err.as_str()), (0, ""), "{shell}");
        assert!(out.contains("resize") && out.contains("apply"), "{shell}: {out}");
    }
    let dir = tempfile::tempdir().unwrap();
    let man = dir.path().join("man8");
    assert_eq!(microslice(&["man", man.to_str().unwrap()]), (0, String::new(), String::new()));
    for name in [
        "microslice.8",
        "microslice-pool.8",
        "microslice-pool-resize.8",
        "microslice-policy-apply.8",
        "microslice-daemon.8",
        "microslice-top.8",
        "microslice-trace-export.8",
    ] {
        let page = fs::read_to_string(man.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{name}");
    }
    let busy = write(dir.path(), "file", "");
    assert!(fails(&["man", &busy]).starts_with(&format!("microslice: create {busy}: File exists")));
}

#[test]
fn a_daemon_with_a_bad_policy_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let bad = write(dir.path(), "policy.yaml", "microslice-policy: 1\nmetrics: 0.0.0.0:1\n");
    assert!(
        fails(&["daemon", "--policy", &bad])
            .starts_with(&format!("microslice: {bad}:2:10: metrics: '0.0.0.0:1' can be reached"))
    );
}

#[test]
fn show_says_what_a_kernel_has_and_lacks_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let map = write(dir.path(), "System.map", system_map());
    let (code, out, _) = microslice(&["symbols", "show", &map]);
    assert_eq!(code, 0);
    assert!(out.contains("found: native_queued_spin_lock_slowpath\n") && out.contains("% of"), "{out}");
    let (code, out, _) = microslice(&["symbols", "show", &map, "--explain", "0xffffffff81001010"]);
    assert_eq!(code, 0);
    assert!(out.contains("lock-wait") && out.contains("native_queued_spin_lock_slowpath+0x10"), "{out}");
    let (_, out, _) = microslice(&["symbols", "show", &map, "--explain", "0xffffffff81001010", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&value["class"], &value["address"]), (&"lock-wait".into(), &"0xffffffff81001010".into()));
}

#[test]
fn the_doctor_says_what_is_lacking_and_fails() {
    if on_xen() {
        return;
    }
    let (code, out, err) = microslice(&["doctor"]);
    assert_eq!((code, err.as_str()), (1, ""));
    assert!(out.starts_with("xen        LACKING open the hypervisor: no Xen here"), "{out}");
    let (code, out, _) = microslice(&["doctor", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &value[0]["ok"]), (1, &false.into()));
    assert!(value[0]["mend"].as_str().unwrap().contains("cargo xtask xen build"));
}

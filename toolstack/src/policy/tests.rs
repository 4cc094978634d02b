// SPDX-License-Identifier: GPL-3.0-only
//! Every message about a policy file, as a user reads it.

use super::*;

const GOOD: &str = "\
microslice-policy: 1
metrics: 127.0.0.1:9713
pools:
  Pool-0:
    slice: 30ms
    micro-slice: 0.1ms
    grace: 100us
    reserve: false
    micro-cores: 1
  second:
    sizing: {mode: adaptive, min: 0, max: 2}
domains:
  - name: 'web-*'
    policy: borrow
    actions: {preemption: grace}
    weight: 512
    cap: 200
    kernel: /boot/vmlinuz
    catalog: /etc/microslice/own.yaml
  - name: db
    actions: {event: none}
    kernel: none
  - name: '*'
";

#[test]
fn a_whole_file_is_read() {
    let policy = Policy::parse("p.yaml", GOOD).unwrap();
    assert_eq!(policy.metrics, Some("127.0.0.1:9713".parse().unwrap()));
    let pool = policy.pools.get("Pool-0").unwrap();
    assert_eq!(
        (pool.slice, pool.micro_slice, pool.reserve, pool.micro_cores),
        (Some(30_000), Some(100), Some(false), Some(1))
    );
    let sizing = policy.pools.get("second").and_then(|pool| pool.sizing.as_ref()).unwrap();
    assert_eq!((sizing.mode, sizing.min, sizing.max), (Sizing::Adaptive, Some(0), Some(2)));
    let web = policy.domain("web-1").unwrap();
    assert_eq!(
        (web.weight, web.cap, &web.kernel),
        (Some(512), Some(200), &Kernel::File("/boot/vmlinuz".into()))
    );
    let front = Actions::row(Action::Front, Action::None);
    assert_eq!(web.actions(front), Some(Row::Grace.policy()));
    assert_eq!(policy.domain("db").unwrap().actions(front), Some(Actions { event: Action::None, ..front }));
    let other = policy.domain("other").unwrap();
    assert_eq!((other.actions(front), &other.kernel), (None, &Kernel::Auto));
}

#[test]
fn without_a_file_every_domain_gets_its_ranges() {
    let policy = Policy::builtin();
    assert_eq!(policy.domain("any").map(|rule| &rule.kernel), Some(&Kernel::Auto));
    assert!(policy.pools.is_empty() && policy.metrics.is_none());
}

/// The sample that the package installs, as it is and with every key in force.
#[test]
fn the_sample_is_read() {
    let sample = include_str!("../../dist/policy.yaml");
    let policy = Policy::parse("sample", sample).unwrap();
    assert_eq!(policy.domains.len(), 1);
    let in_force: String = sample
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| !rest.starts_with(' ') || rest.starts_with("  "))
                .unwrap_or(line)
        })
        // Instead of the line after it.
        .filter(|line| !line.contains("micro-cores:"))
        .fold(String::new(), |text, line| text + line + "\n");
    let policy = Policy::parse("sample", &in_force).unwrap();
    let web = policy.domain("web-1").unwrap();
    assert!(
        policy.metrics.is_some() && web.catalog.is_some() && web.weight.is_some() && web.policy.is_some()
    );
    assert!(policy.pools.get("Pool-0").unwrap().sizing.is_some());
}

/// The text after the format's line, and the message.
const WRONG: [(&str, &str); 35] = [
    (
        "colour: red",
        "2:1: unknown field `colour`, expected one of `microslice-policy`, `metrics`, `pools`, `domains`",
    ),
    ("metrics: here", "2:10: metrics: 'here' is not an address and port: expected one as in 127.0.0.1:9713"),
    (
        "metrics: 0.0.0.0:9713",
        "2:10: metrics: '0.0.0.0:9713' can be reached from outside: expected a loopback address, as in 127.0.0.1:9713",
    ),
    (
        "metrics: [1]",
        "2:10: metrics: invalid type: sequence, expected an address and port, as in 127.0.0.1:9713",
    ),
    ("metrics: a\nmetrics: b", "3:1: 'metrics' comes twice"),
    ("domains: []\ndomains: []", "3:1: 'domains' comes twice"),
    ("pools: [1]", "2:8: pools: invalid type: sequence, expected a map"),
    (
        "pools:\n  a: {slice: 30}",
        "3:14: pools.a.slice: '30' is not a time: expected a number and us, ms or s, as in 30ms, 100us, 0.1ms",
    ),
    (
        "pools:\n  a: {slice: 30min}",
        "3:14: pools.a.slice: '30min' is not a time: expected a number and us, ms or s, as in 30ms, 100us, 0.1ms",
    ),
    ("pools:\n  a: {slice: 0.1us}", "3:14: pools.a.slice: '0.1us' is not a whole number of microseconds"),
    (
        "pools:\n  a:\n    slice:",
        "4:11: pools.a.slice: invalid type: unit value, expected a time, as in 30ms or 100us",
    ),
    (
        "pools:\n  a: {slices: 30ms}",
        "3:7: pools.a: unknown field `slices`, expected one of `slice`, `micro-slice`, `grace`, `reserve`, `micro-cores`, `sizing`",
    ),
    ("pools:\n  a: {slice: 1ms}\n  a: {slice: 2ms}", "4:3: pools: 'a' comes twice"),
    ("pools:\n  a: {reserve: on}", "3:16: pools.a.reserve: invalid type: string \"on\", expected a boolean"),
    (
        "pools:\n  a: {micro-cores: -1}",
        "3:20: pools.a.micro-cores: invalid value: integer `-1`, expected a number of micro cores, 0 to 63",
    ),
    (
        "pools:\n  a: {micro-cores: 64}",
        "3:20: pools.a.micro-cores: invalid value: integer `64`, expected a number of micro cores, 0 to 63",
    ),
    (
        "pools:\n  a: {slice: 1ms, micro-slice: 2ms}",
        "3:32: pools.a.micro-slice: 2ms is longer than the slice, 1ms",
    ),
    ("pools:\n  a: {slice: 1ms, grace: 2ms}", "3:26: pools.a.grace: 2ms is longer than the slice, 1ms"),
    ("pools:\n  a: {sizing: {}}", "3:15: pools.a.sizing: missing field `mode`"),
    (
        "pools:\n  a: {sizing: {mode: fast}}",
        "3:22: pools.a.sizing.mode: 'fast' is not a sizing mode: expected static, paper, adaptive",
    ),
    (
        "pools:\n  a: {sizing: {mode: static, max: 2}}",
        "3:15: pools.a.sizing: mode static takes no min or max: expected micro-cores beside it",
    ),
    (
        "pools:\n  a: {sizing: {mode: paper, min: 3, max: 2}}",
        "3:34: pools.a.sizing.min: 3 at least and 2 at most",
    ),
    (
        "pools:\n  a: {micro-cores: 1, sizing: {mode: paper}}",
        "3:20: pools.a.micro-cores: the scheduler decides in this sizing mode: expected min and max in sizing instead, or mode static",
    ),
    ("domains: {name: web}", "2:10: domains: invalid type: map, expected a sequence"),
    ("domains: [{weight: 5}]", "2:11: domains[0]: missing field `name`"),
    ("domains: [{name: ''}]", "2:18: domains[0].name: an empty name matches no domain"),
    (
        "domains: [{name: 'a[b'}]",
        "2:18: domains[0].name: 'a[b' is not a pattern: invalid range pattern (after 1 bytes)",
    ),
    (
        "domains: [{name: a, weight: 0}]",
        "2:29: domains[0].weight: invalid value: integer `0`, expected a weight, 1 to 65535",
    ),
    (
        "domains: [{name: a, cap: many}]",
        "2:26: domains[0].cap: invalid type: string \"many\", expected a cap in percent of one pCPU (0: none), 0 to 65535",
    ),
    (
        "domains: [{name: a, policy: fast}]",
        "2:29: domains[0].policy: 'fast' is not a policy row: expected none, paper, eager, borrow, grace",
    ),
    (
        "domains: [{name: a, actions: {event: boost}}]",
        "2:38: domains[0].actions.event: 'boost' is not an action: expected none, micro, borrow, grace, front",
    ),
    (
        "domains: [{name: a, actions: {event: grace}}]",
        "2:38: domains[0].actions.event: grace fits preemption only",
    ),
    (
        "domains: [{name: a, kernel: vmlinuz}]",
        "2:29: domains[0].kernel: 'vmlinuz' is not an absolute path, auto or none",
    ),
    (
        "domains: [{name: a, kernel: none, catalog: /c}]",
        "2:44: domains[0].catalog: without a kernel (kernel: none) there is nothing to look up",
    ),
    (
        "domains:\n- name: '*'\n- name: web",
        "4:9: domains[1].name: 'web' is never reached: '*' in line 3 fits first",
    ),
];

#[test]
fn every_error_says_where_and_what_was_expected() {
    let mut differ = String::new();
    for (text, message) in WRONG {
        let said = Policy::parse("p.yaml", &format!("microslice-policy: 1\n{text}\n")).unwrap_err();
        if said != format!("p.yaml:{message}") {
            differ += &format!("{text}\n  wanted p.yaml:{message}\n  got    {said}\n");
        }
    }
    assert!(differ.is_empty(), "{differ}");
}

#[test]
fn the_format_comes_first() {
    for (text, message) in [
        ("", "p.yaml:1:1: missing field `microslice-policy`"),
        ("domains: []\n", "p.yaml:1:1: missing field `microslice-policy`"),
        (
            "microslice-policy: 2\n",
            "p.yaml:1:20: microslice-policy: invalid value: integer `2`, expected the format of policy files that this microslice reads, 1 to 1",
        ),
        ("a: [", "p.yaml:2:1: did not find expected node content, while parsing a flow node"),
        ("a: b: c\n", "p.yaml:1:5: mapping values are not allowed in this context"),
        ("a: !tag x\n", "p.yaml:1:4: a: invalid type: enum, expected plain YAML, without tags"),
        ("- a\n", "p.yaml:1:1: invalid type: sequence, expected struct Policy"),
    ] {
        assert_eq!(Policy::parse("p.yaml", text).unwrap_err(), message, "{text}");
    }
}

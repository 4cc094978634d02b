#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-only
# Target VM alone or beside a co-runner. /job/job.sh says what differs between runs:
#   CORUN=0|1  PUSH=0|1 (ranges for every guest)  MICRO=N (micro cores, "" = none to set)
#   POLICY=ROW of `microslice domain policy` ("" = none to set)  RESERVE=0|1  GRACE=TIME  STATS=0|1
#   TRACE=0|1 (record some of it)  LIMIT=virtual seconds
# Guests report that they have booted and then wait a little before they work. Boots run with idle CPUs halted, which
# is fast but gives CPUs no constant speed; each guest is paused in its wait. When both wait, idle CPUs are made to
# spin and both go on: the target's warm-up and measuring window see the co-runner at work.
. /agent/lib.sh
. /job/job.sh

# push DOMAIN: the ranges of its kernel, slide taken from the booted guest.
push() { microslice symbols push "$1" /tmp/ranges.json >/tmp/push 2>&1 || { cat /tmp/push; fail "symbols push $1"; }; }

# start NAME: until it has booted and waits; left paused.
start() {
    phase "create-$1"
    xl create -q -e "/job/$1.cfg" || fail "create $1"
    phase "boot-$1"
    await "$1" booted 120 || { dump_guest "$1"; fail "$1 not booted"; }
    xl pause "$1" || fail "pause $1"
    [ "$PUSH" = 1 ] && push "$1"
}

domains=target
[ "$CORUN" = 1 ] && domains="corunner target"
if [ "$PUSH" = 1 ]; then
    phase import-symbols
    # The bzImage's kernel, unpacked: xz takes longer here than a boot does, and tests/e2e/control.sh reads the bzImage.
    microslice symbols import /boot/vmlinux -o /tmp/ranges.json >/tmp/import 2>&1 || { cat /tmp/import; fail "symbols import"; }
fi
for domain in $domains; do start $domain; done
if [ -n "$MICRO" ]; then
    microslice pool resize "$MICRO" || fail "pool resize $MICRO"
    microslice pool slice --grace "$GRACE" || fail "pool slice --grace $GRACE"
    [ "$RESERVE" = 0 ] || microslice pool reserve on || fail "pool reserve on"
fi
if [ -n "$POLICY" ]; then
    for domain in $domains; do
        microslice domain policy "$domain" "$POLICY" || fail "domain policy $domain $POLICY"
    done
fi
xl set-parameters idle-spin=1 || fail "set idle-spin"
for domain in $domains; do xl unpause $domain || fail "unpause $domain"; done
phase measuring
if [ "$TRACE" = 1 ]; then
    sleep 1
    microslice trace record --seconds 0.3 /tmp/pool.trace >/tmp/trace 2>&1 || { cat /tmp/trace; fail "trace record"; }
fi
# Seldom: a dom0 at work lends speed to the other CPUs.
await target done "$LIMIT" 200 || { for domain in $domains; do dump_guest $domain; done; fail "target not done"; }
[ "$CORUN" = 1 ] && xl pause corunner
phase collect
xl set-parameters idle-spin=0
for domain in $domains; do print_guest $domain; done
collect vcpu-list xl vcpu-list
collect cpupool-list xl cpupool-list
if [ "$STATS" = 1 ]; then
    collect stats microslice stats --json
fi
if [ "$TRACE" = 1 ]; then
    collect replay microslice trace replay --json /tmp/pool.trace
    collect trace base64 /tmp/pool.trace
    microslice trace show --symbols /boot/vmlinux /tmp/pool.trace >/tmp/shown 2>&1 || { cat /tmp/shown; fail "trace show"; }
    # Some guests yield by hypercall a hundred times before the first PAUSE exit in a wait.
    collect yields sh -c "grep -m 3 ' yields in .*(ipi-wait)' /tmp/shown || grep -m 20 ' yields ' /tmp/shown"
fi
for domain in $domains; do xl destroy $domain || fail "destroy $domain"; done
phase done
exit 0

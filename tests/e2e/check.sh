# SPDX-License-Identifier: GPL-3.0-only
# Functions of the test scripts in dom0. One line a check: "@lab check NAME ok", or what is wrong.

ok() { say "check $1 ok"; }
bad() { name=$1; shift; say "check $name $*"; }

# must NAME COMMAND...: it succeeds.
must() {
    name=$1; shift
    if "$@" >/tmp/must 2>&1; then ok "$name"; else bad "$name" "$*: status $?: $(tr '\n' ' ' </tmp/must)"; fi
}

# is NAME WANTED GOT
is() { if [ "$2" = "$3" ]; then ok "$1"; else bad "$1" "wanted '$2', got '$3'"; fi; }

# soon NAME SECONDS COMMAND...: it succeeds within SECONDS, tried every 50 ms, and twice at least.
soon() {
    name=$1 until=$(($(seconds) + $2)) tries=0; shift 2
    until "$@" >/tmp/soon 2>&1; do
        tries=$((tries + 1))
        if [ "$(seconds)" -gt $until ] && [ $tries -gt 1 ]; then
            bad "$name" "$*: not so in time: $(tr '\n' ' ' </tmp/soon)"
            return 1
        fi
        usleep 50000
    done
    ok "$name"
}
seconds() { read -r now _ </proc/uptime; echo "${now%.*}"; }

# What bad input may not change.
state() {
    microslice pool list --json | grep -E '"(name|slice_us|micro_slice_us|ratelimit_us|nr_micro|nr_cpus)"'
    microslice domain list --json | grep -E '"(name|pool|weight|cap|ranges|generation)"'
}

# refused NAME WORD COMMAND...: exit status 1 or 2, one clear error that holds WORD, and nothing changed.
refused() {
    name=$1 word=$2; shift 2
    state >/tmp/before
    "$@" >/tmp/stdout 2>/tmp/stderr; status=$?
    state >/tmp/after
    if [ $status != 1 ] && [ $status != 2 ]; then
        bad "$name" "status $status: $(tr '\n' ' ' </tmp/stderr)"
    elif ! grep -qi "$word" /tmp/stderr; then
        bad "$name" "error without '$word': $(tr '\n' ' ' </tmp/stderr)"
    elif ! cmp -s /tmp/before /tmp/after; then
        bad "$name" "changed something: $(diff /tmp/before /tmp/after | tr '\n' ' ')"
    else
        ok "$name"
    fi
}

# boot_guests: the co-runner and the target, with the ranges of their kernel; left paused.
boot_guests() {
    must import microslice symbols import /boot/vmlinux -o /tmp/ranges.json
    for guest in corunner target; do
        xl create -q -e /job/$guest.cfg || fail "create $guest"
        await $guest booted 120 || { dump_guest $guest; fail "$guest not booted"; }
        must pause-$guest xl pause $guest
        must push-$guest microslice symbols push $guest /tmp/ranges.json
    done
}

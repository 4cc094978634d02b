# SPDX-License-Identifier: GPL-3.0-only
# Functions of the dom0 agent. Time is dom0's uptime: virtual seconds.
LOGS=/var/log/xen/console

say() { echo "@lab $*"; }

uptime_s() { read -r now _ </proc/uptime; echo "$now"; }

# phase NAME: what happens from now on.
phase() { read -r now _ </proc/uptime; say "phase $1 $now"; }

# fail WORDS: the run is over and has no result.
fail() { say "fail $*"; exit 1; }

# collect NAME COMMAND...: its output between markers; a command that fails does not end the run.
collect() {
    name=$1; shift
    say "begin $name"
    "$@" >/tmp/out 2>&1; status=$?
    sed 's/^/@lab | /' /tmp/out
    say "close $name $status"
}

bring_up() {
    for module in xen-evtchn xen-privcmd xen-gntdev xen-gntalloc xenfs; do
        insmod /modules/$module.ko 2>/dev/null
    done
    mkdir -p /proc/xen
    mount -t xenfs xenfs /proc/xen || fail "mount xenfs"
    xenstored || fail "start xenstored"
    xen-init-dom0 >/dev/null || fail "xen-init-dom0"
    xenconsoled --log=guest --log-dir=$LOGS || fail "start xenconsoled"
}

# The job in /job, and then the end of the machine.
run_job() {
    . /job/job.sh
    sh "/agent/$SCENARIO.sh"
    say end $?
    poweroff -f
}

log_of() { echo "$LOGS/guest-$1.log"; }

# await NAME WORD SECONDS [MS]: until the guest's log holds an event, looking every MS; ticks show that time goes on.
await() {
    log=$(log_of "$1"); count=0; every=${4:-50}; limit=$(($3 * 1000 / every))
    until grep -q "\"ev\":\"$2\"" "$log" 2>/dev/null; do
        grep -q '"ev":"failed"' "$log" 2>/dev/null && return 1
        count=$((count + 1))
        [ $count -gt $limit ] && return 1
        [ $((count % 20)) = 0 ] && phase "await-$1-$2"
        usleep ${every}000
    done
}

# Guest log to the serial line, reports only, and whole ones: the last may still be coming.
print_guest() {
    awk -v name="$1" '/@guest .*}\r?$/ { sub(/.*@guest /, ""); sub(/\r$/, ""); print "@lab guest " name " " $0 }' "$(log_of "$1")"
}

# The whole log, for a failed run.
dump_guest() { collect "log-$1" cat "$(log_of "$1")"; }

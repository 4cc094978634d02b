#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-only
# In dom0, on real Xen: CYCLES steps that chance picks by SEED (/job/cycles). Domains are created and destroyed, the cpupool resized, ranges
# pushed and dropped, the policy changed, the daemon or a command killed with -9 at any moment. A model in variables says what has to come of it; at
# the end, and every 20 steps, the hypervisor has to hold exactly that. After that all domains go, and Xen's heap has to have its pages back.
. /agent/lib.sh
. /agent/check.sh
. /job/cycles
PATH=/usr/sbin:$PATH
FILE=/tmp/policy.yaml
# g1 to g3 get their ranges from the daemon; those of g4 to g6 are pushed by hand.
SLOTS="1 2 3 4 5 6"

# rnd N: sets R to 0..N-1. The constants are those of POSIX's example of rand().
rnd() { SEED=$(((SEED * 1103515245 + 12345) & 0x7fffffff)); R=$((SEED / 65536 % $1)); }
get() { eval "echo \"\$$1_$2\""; }
put() { eval "$1_$2=$3"; }

# ranges COUNT: as lines of a file.
ranges() { n=0; while [ $n -lt "$1" ]; do printf '  - {start: "0xffffffff%x00", end: "0xffffffff%x80", class: irq, names: [a]}\n' $((0x810010 + n)) $((0x810010 + n)); n=$((n + 1)); done; }
# By the daemon: 3 ranges, 10 MiB further on, since MSR_LSTAR is. By hand: so many that a table which is not given back shows among
# Xen's free pages, as they stand, in a file that does not say which kernel it is of.
{ echo "microslice-ranges: 1"; echo 'entry_SYSCALL_64: "0xffffffff81000080"'; echo "ranges:"; ranges 3; } >/tmp/daemon.yaml
{ echo "microslice-ranges: 1"; echo "ranges:"; ranges 1000; } >/tmp/hand.yaml
DAEMON_TABLE=0xffffffff81a01000 HAND_TABLE=0xffffffff81001000

policy() {
    echo "microslice-policy: 1"
    echo "domains:"
    echo "- {name: 'g[123]', kernel: /tmp/daemon.yaml, weight: $weight}"
    echo "- {name: '*', kernel: none}"
}
start_daemon() { microslice daemon --policy $FILE >>/tmp/daemon.log 2>&1 & daemon=$!; }
kill_daemon() { kill -9 $daemon 2>/dev/null; wait $daemon 2>/dev/null; }

create() {
    sed "s/NAME/g$1/" /job/tiny.cfg >/tmp/g.cfg
    xl create -q /tmp/g.cfg >/tmp/xl 2>&1 || { bad "create-$step" "$(tr '\n' ' ' </tmp/xl)"; return; }
    put up "$1" 1
    case $1 in [123]) put weight "$1" $weight; put table "$1" $DAEMON_TABLE ;; *) put weight "$1" 256; put table "$1" none ;; esac
}
destroy() {
    xl destroy "g$1" >/tmp/xl 2>&1 || bad "destroy-$step" "$(tr '\n' ' ' </tmp/xl)"
    put up "$1" 0
}

# Of the hypervisor, as lines "gN WEIGHT FIRST-RANGE" and "micro N".
is_now() {
    for slot in $SLOTS; do
        # Of one that is not there this says nothing.
        microslice domain show "g$slot" --ranges --json 2>/dev/null | awk -v name="g$slot" '
            /^  "weight":/ { gsub(/[^0-9]/, ""); weight = $0 }
            /"start":/ && !first { gsub(/[ ",]/, ""); sub(/start:/, ""); first = $0 }
            END { if (weight) print name, weight, first ? first : "none" }'
    done
    echo "micro $(microslice pool show Pool-0 --json | sed -n 's/^ *"nr_micro": \([0-9]*\).*/\1/p')"
}
should_be() {
    for slot in $SLOTS; do
        [ "$(get up "$slot")" = 1 ] && echo "g$slot $(get weight "$slot") $(get table "$slot")"
    done
    echo "micro $micro"
}
same() { is_now >/tmp/is; should_be >/tmp/should; diff -U 0 /tmp/should /tmp/is; }

# A command that is killed did all or nothing: NOW is what it did. killed KEY BEFORE AFTER COMMAND...
killed() {
    key=$1 before=$2 after=$3; shift 3
    "$@" >/dev/null 2>&1 & pid=$!
    rnd 60
    usleep $((R * 1000))
    kill -9 $pid 2>/dev/null; wait $pid 2>/dev/null
    now=$(is_now | awk -v key="$key" '$1 == key { print $NF }')
    case $now in
    "$before" | "$after") ;;
    *) bad "killed-$step" "$*: $key has '$now', neither '$before' nor '$after'" ;;
    esac
}

# Pages that Xen's heap has free, by debug key H.
heap() {
    xl dmesg -c >/dev/null
    xl debug-keys H
    usleep 100000
    xl dmesg | awk '/heap\[node=[0-9]+\]\[zone=[0-9]+\] -> / { for (i = 1; i < NF; i++) if ($i == "->") sum += $(i + 1) } END { print sum + 0 }'
}

# One step; sets WHAT. One that needs a domain that is not there creates it.
cycle() {
    rnd 10; kind=$R
    rnd 6; slot=$((R + 1))
    case $kind in [457]) slot=$((R / 2 + 4)) ;; esac
    [ "$(get up $slot)" = 1 ] || case $kind in [012457]) what="create g$slot"; create $slot; return ;; esac
    case $kind in
    0 | 1 | 2)
        what="destroy g$slot"
        destroy $slot ;;
    3)
        rnd 4; micro=$R; what="resize $micro"
        microslice pool resize $micro >/tmp/out 2>&1 || bad "resize-$step" "$(cat /tmp/out)" ;;
    4)
        what="push g$slot"
        microslice symbols push "g$slot" /tmp/hand.yaml --slide none >/tmp/out 2>&1 || bad "push-$step" "$(cat /tmp/out)"
        put table $slot $HAND_TABLE ;;
    5)
        what="drop g$slot"
        microslice symbols drop "g$slot" >/tmp/out 2>&1 || bad "drop-$step" "$(cat /tmp/out)"
        put table $slot none ;;
    6)
        what="kill -9 of the daemon"
        kill_daemon
        rnd 50; usleep $((R * 1000))
        start_daemon ;;
    7)
        what="kill -9 of a push to g$slot"
        killed "g$slot" "$(get table $slot)" $HAND_TABLE microslice symbols push "g$slot" /tmp/hand.yaml --slide none
        put table $slot "$now" ;;
    8)
        rnd 4; wanted=$R; what="kill -9 of resize $wanted"
        killed micro $micro $wanted microslice pool resize $wanted
        micro=$now ;;
    9)
        rnd 900; weight=$((R + 100)); what="weight $weight"
        policy >$FILE.new; mv $FILE.new $FILE
        # A daemon that has only just begun would not survive it: bit 0 of the caught signals.
        until grep -q "^SigCgt:.*[13579bdf]$" /proc/$daemon/status; do usleep 10000; done
        kill -HUP $daemon
        for s in 1 2 3; do put weight $s $weight; done ;;
    esac
}

phase start
ifconfig lo up
cat >/job/tiny.cfg <<END
name = "NAME"
type = "pvh"
kernel = "/job/tiny"
memory = 8
vcpus = 2
cpus = "1-4"
on_poweroff = "preserve"
on_crash = "preserve"
END
micro=0 weight=300 step=0
for slot in $SLOTS; do put up $slot 0; done
policy >$FILE
start_daemon
# All slots once: what Xen keeps for good it has then.
for slot in $SLOTS; do phase "create-$slot"; create $slot; done
soon all-are-as-they-should 20 same || collect daemon tail -20 /tmp/daemon.log
for slot in $SLOTS; do destroy $slot; done
soon all-are-gone 20 same
usleep 1000000
pages=$(heap)
say "heap $pages"

phase cycles
while [ $step -lt "$CYCLES" ]; do
    step=$((step + 1))
    cycle
    say "step $step $what"
    if [ $((step % 20)) = 0 ]; then
        phase "cycle-$step"
        soon "state-after-$step" 20 same || collect "daemon-at-$step" tail -20 /tmp/daemon.log
    fi
done

phase end
for slot in $SLOTS; do [ "$(get up $slot)" = 1 ] && destroy $slot; done
micro=0
must resize-0 microslice pool resize 0
soon nothing-is-left 20 same
must only-dom0 test "$(xl list | wc -l)" = 2
kill -TERM $daemon
wait $daemon
is daemon-ends 0 $?
# Xen's allocator keeps some pages of small pieces: under credit2, without any of this, it has up to 70 fewer now and then. A table of
# ranges takes 4 pages.
back() { after=$(heap); echo "$after of $pages pages"; [ "$after" -ge $((pages - 70)) ]; }
soon heap-has-its-pages-back 20 back
say "heap $pages $after"
is no-decision-rejected 0 "$(microslice pool show Pool-0 --json | sed -n 's/.*"rejected": \([0-9]*\).*/\1/p')"
phase done
exit 0

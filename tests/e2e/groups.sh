#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-only
# One cpupool of three sockets, each a group of pCPUs, on real Xen, in dom0: 0-1, 2-3 and 4. Guests work in all of them, are waited
# for and move between them. Boot with sched=microslice, 4 + 1 pCPUs in sockets of two.
. /agent/lib.sh
. /agent/check.sh

value() { microslice pool show Pool-0 | sed -n "s/^$1 *: *//p"; }
# more KEY THAN: a counter of the pool is above.
more() { [ "$(value "$1")" -gt "$2" ]; }
progress() { grep -c '"ev":"progress"' "$(log_of corunner)"; }
works() { [ "$(progress)" -gt "$1" ]; }
alive() { soon "$1" 10 works $(($(progress) + 2)); }
cpus_of() { xl vcpu-list "$1" | awk 'NR > 1 && $4 != "-" { print $4 }' | sort -u | tr '\n' ' '; }
# run_ms GUEST: how long its vCPUs have run, ms.
run_ms() { microslice domain show "$1" --json | sed -n 's/.*"run_ns": \([0-9]*\).*/\1/p' | head -1 | awk '{ printf "%d", $1 / 1e6 }'; }

phase boot-guests
boot_guests
is three-groups 3 "$(value groups)"
is all-pcpus 0-4 "$(value cpus)"
refused which-group "choose one with --group" microslice trace record --pool Pool-0 /tmp/none.trace
refused no-such-group "there is no group 3" microslice trace record --pool Pool-0 --group 3 /tmp/none.trace

phase beside-each-other
must unpause-corunner xl unpause corunner
must unpause-target xl unpause target
sleep 1
before=$(value moves)
for group in 0 1 2; do
    microslice trace record --group $group --seconds 0.5 /tmp/$group.trace >/tmp/$group.out 2>&1 &
    eval "tracer$group=$!"
done
seen=
for _ in 1 2 3 4 5 6 7 8 9 10; do
    seen="$seen $(cpus_of target) $(cpus_of corunner)"
    usleep 100000
done
is guests-were-everywhere "1 2 3 4 " "$(echo $seen | tr ' ' '\n' | grep -v '^0$' | sort -u | tr '\n' ' ')"
must traced-0 wait $tracer0
must traced-1 wait $tracer1
must traced-2 wait $tracer2
await target done 300 200 || { dump_guest target; dump_guest corunner; fail "target not done"; }
soon vcpus-moved 1 more moves "$before"
soon siblings-were-reached-elsewhere 1 more reached 0
collect pool microslice pool show Pool-0
for group in 0 1 2; do
    must replayed-$group microslice trace replay /tmp/$group.trace
    microslice trace show /tmp/$group.trace >>/tmp/shown
done
collect waits sh -c "grep -c 'are awaited in another group' /tmp/shown"
collect joined sh -c "grep -c ' joins' /tmp/shown"
is a-wait-was-recorded yes "$(grep -q 'are awaited in another group' /tmp/shown && echo yes)"

phase affinity
for cpu in 1 2 4; do
    must pin-to-$cpu xl vcpu-pin corunner all $cpu
    alive works-on-$cpu
    is is-on-$cpu "$cpu " "$(cpus_of corunner)"
done
must unpin xl vcpu-pin corunner all 1-4
alive works-everywhere

phase cap
must cap xl sched-microslice -d corunner -c 100
sleep 1
from=$(run_ms corunner) start=$(uptime_s)
sleep 3
ran=$(($(run_ms corunner) - from)) took=$(echo "$start $(uptime_s)" | awk '{ printf "%d", ($2 - $1) * 1000 }')
collect cap-ran echo "$ran ms in $took ms"
if [ "$ran" -le $((took * 102 / 100 + 20)) ]; then ok cap-is-kept; else bad cap-is-kept "ran $ran ms in $took ms at cap 100"; fi
if [ "$ran" -ge $((took * 90 / 100)) ]; then ok cap-is-given; else bad cap-is-given "ran $ran ms in $took ms at cap 100"; fi
must no-cap xl sched-microslice -d corunner -c 0
alive works-without-cap

phase micro-cores
refused no-normal-core-in-a-group "normal" microslice pool resize 1
is still-none 0 "$(value micro_cores)"
must cpu-off-4 xl cpupool-cpu-remove Pool-0 4
alive works-without-4
must resize microslice pool resize 1
is one-in-each-group 1,3 "$(value micro_cpus)"
alive works-beside-micro-cores
must second-create xl cpupool-create 'name="second"' 'sched="microslice"' 'cpus="4"'
must move-there xl cpupool-migrate corunner second
must pin-to-any xl vcpu-pin corunner all all
alive works-in-second
must move-back xl cpupool-migrate corunner Pool-0
must pin-again xl vcpu-pin corunner all 1-4
alive works-after-both-moves
must second-destroy xl cpupool-destroy second
must cpu-on-4 xl cpupool-cpu-add Pool-0 4
is still-one-in-each-group 1,3 "$(value micro_cpus)"
must host-cpu-off-3 xen-hptool cpu-offline 3
alive works-without-3
must host-cpu-on-3 xen-hptool cpu-online 3
alive works-with-3
must resize-0 microslice pool resize 0
must destroy xl destroy corunner
is no-decision-rejected 0 "$(value rejected)"
collect pool-at-the-end microslice pool show Pool-0
phase done
exit 0

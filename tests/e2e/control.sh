#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-only
# The control path on real Xen, in dom0: bad input changes nothing and says why; pools, pCPUs, vCPUs and domains
# come and go under the microslice scheduler while a guest works. Boot with sched=microslice, 4 + 1 pCPUs.
. /agent/lib.sh
. /agent/check.sh

# alive NAME GUEST: the guest's hog goes on.
alive() {
    before=$(grep -c '"ev":"progress"' "$(log_of "$2")"); count=0
    while [ "$(grep -c '"ev":"progress"' "$(log_of "$2")")" -le $((before + 2)) ]; do
        count=$((count + 1))
        [ $count -gt 100 ] && { bad "$1" "no progress of $2 in 5 s"; collect vcpus xl vcpu-list; return; }
        usleep 50000
    done
    ok "$1"
}

pool_value() { microslice pool show "$1" --json | sed -n "s/.*\"$2\": \([0-9]*\).*/\1/p"; }

# shown POOL KEY: as people read it.
shown() { microslice pool show "$1" | sed -n "s/^$2 *: *//p"; }

# The pCPUs that the guest's vCPUs are on or were on last, without vCPUs that it has switched off.
cpus_of() { xl vcpu-list "$1" | awk 'NR > 1 && $4 != "-" { print $4 }' | sort -u | tr '\n' ' '; }

# finish GUEST: wait for a domain to be gone.
gone() {
    count=0
    while xl domid "$1" >/dev/null 2>&1; do
        count=$((count + 1))
        [ $count -gt 100 ] && { bad "$1-destroy" "still there after 5 s"; return; }
        usleep 50000
    done
    ok "$1-destroy"
}

phase boot-guest
xl create -q -e /job/corunner.cfg || fail "create corunner"
await corunner progress 120 || { dump_guest corunner; fail "corunner not at work"; }

phase bad-input
# What dom0 does alone takes a fifth of the time it takes beside a busy guest.
xl pause corunner
K=/boot/vmlinuz
dd if=$K of=/tmp/short bs=1M count=1 2>/dev/null
dd if=/dev/urandom of=/tmp/noise bs=64k count=1 2>/dev/null
: >/tmp/empty
refused not-a-kernel /tmp/noise microslice symbols push corunner /tmp/noise
refused empty-file /tmp/empty microslice symbols push corunner /tmp/empty
refused truncated-kernel /tmp/short microslice symbols push corunner /tmp/short
refused missing-file /tmp/none microslice symbols push corunner /tmp/none
refused pool-too-big "micro" microslice pool resize 5
refused pool-absurd "micro" microslice pool resize 4000000000
refused pool-unknown "nosuch" microslice pool resize --pool nosuch 1
refused resize-below-none "micro cores, where there are 0" microslice pool resize -1
refused slice-too-short "expected 1000 us to 1000000 us" microslice pool slice --normal 10us
refused micro-beyond-slice "to the normal slice" microslice pool slice --micro 2s
refused grace-too-short "grace 1 us: expected 10 us" microslice pool slice --grace 1us
refused weight-zero "0 is not in 1..=65535" microslice domain set corunner --weight 0
refused cap-beyond "expected 0 to 400 for its 4 vCPUs" microslice domain set corunner --cap 401
must import microslice symbols import $K -o /tmp/ranges.json
refused domain-unknown nosuch microslice symbols push nosuch /tmp/ranges.json
range() { echo "  - {start: \"$1\", end: \"$2\", class: irq, names: [a]}"; }
head_of_file() {
    echo "microslice-ranges: 1"
    echo "kernel: test"
    echo "ranges:"
}
{ head_of_file; range 0xffffffff81002000 0xffffffff81003000; range 0xffffffff81000000 0xffffffff81001000; } >/tmp/unsorted.yaml
{ head_of_file; range 0xffffffff81000000 0xffffffff81003000; range 0xffffffff81002000 0xffffffff81004000; } >/tmp/overlap.yaml
{ head_of_file; awk 'BEGIN { for (i = 0; i < 4097; i++) printf "  - {start: \"0xffffffff8%07x\", end: \"0xffffffff8%07x\", class: irq, names: [a]}\n", i * 32, i * 32 + 16 }'; } >/tmp/many.yaml
refused ranges-unsorted "sorted\|order" microslice symbols push corunner /tmp/unsorted.yaml --slide none
refused ranges-overlap "overlap" microslice symbols push corunner /tmp/overlap.yaml --slide none
refused ranges-too-many "4096" microslice symbols push corunner /tmp/many.yaml --slide none
{ head_of_file; range 0xffffffff81000000 0xffffffff81003000; } >/tmp/no-anchor.yaml
refused no-anchor "does not say where entry_SYSCALL_64 is" microslice symbols push corunner /tmp/no-anchor.yaml
echo 'nobody:x:65534:65534:nobody:/:/bin/sh' >/etc/passwd
echo 'nogroup:x:65534:' >/etc/group
chmod 644 /tmp/ranges.json
refused no-privilege "run as root in dom0" su nobody -c "microslice pool resize 1"

phase symbols
must push microslice symbols push corunner /tmp/ranges.json
is pushed-ranges-are-there yes "$(microslice domain show corunner --json | sed -n 's/.*"ranges": \([1-9][0-9]*\).*/yes/p' | head -1)"
refused bad-after-good "overlap" microslice symbols push corunner /tmp/overlap.yaml --slide none
must drop microslice symbols drop corunner
must push-again microslice symbols push corunner /tmp/ranges.json

phase resize
xl unpause corunner
# All that follows, up to "phase destroy", is recorded.
microslice trace record --pool Pool-0 --seconds 3600 /tmp/pool.trace >/tmp/trace.out 2>&1 &
tracer=$!
for micro in 1 2 3 0 2; do
    must "resize-$micro" microslice pool resize --pool Pool-0 $micro
    is "resized-$micro" $micro "$(pool_value Pool-0 nr_micro)"
done
must resize-up microslice pool resize +1
is resized-up 3 "$(pool_value Pool-0 nr_micro)"
must resize-down microslice pool resize -1
is resized-down 2 "$(pool_value Pool-0 nr_micro)"
is listed-micro-cores 3-4 "$(microslice pool list -c | sed -n 's/^Pool-0 .* //p')"
is xl-knows-the-scheduler microslice "$(xl cpupool-list | awk '$1 == "Pool-0" { print $3 }')"
is xl-info-knows-it microslice "$(xl info | sed -n 's/^xen_scheduler *: //p')"
# dom0 may run on pCPU 0 only, the guest on 1 to 4 only. Micro cores that do normal work strand nobody.
must reserve-on microslice pool reserve on
alive works-beside-2-reserved-micro-cores corunner
refused guest-would-strand "affinity" microslice pool resize --pool Pool-0 4
is not-resized 2 "$(pool_value Pool-0 nr_micro)"
alive works-beside-2-micro-cores corunner
must slices microslice pool slice --normal 20ms --micro 200us
is slice-set 20000 "$(pool_value Pool-0 slice_us)"
must weight microslice domain set corunner --weight 512 --cap 250 --policy grace
is row-set grace "$(microslice domain show corunner --json | sed -n 's/.*"preemption": "\([a-z]*\)".*/\1/p')"
must weight-xl xl sched-microslice -d corunner -w 128 -c 0
alive works-after-weights corunner
must top-batch sh -c 'microslice top --batch -d 0.5 -n 2 >/tmp/top'
# The hog has four vCPUs; the second block's rates are of a time in which it worked. Column 8: CPU%.
is top-sees-the-guest-work yes "$(awk '$1 == "corunner" && $8 > 50 { found = "yes" } END { print found }' /tmp/top)"
is top-sees-its-pcpus-busy yes "$(microslice top --json -d 0.5 -n 1 | sed -n 's/.*"busy_percent":[1-9].*/yes/p')"
collect top cat /tmp/top

phase vcpus
must pause xl pause corunner
must unpause xl unpause corunner
alive works-after-pause corunner
must affinity-1 xl vcpu-pin corunner all 1-2
alive works-on-two-pcpus corunner
must affinity-2 xl vcpu-pin corunner all 1-4
must vcpu-set-2 xl vcpu-set corunner 2
alive works-with-2-vcpus corunner
must vcpu-set-4 xl vcpu-set corunner 4
alive works-with-4-vcpus corunner
must back-to-0 microslice pool resize 0
must pin-to-one xl vcpu-pin corunner 3 4
refused pinned-vcpu-would-strand "affinity" microslice pool resize 1
must unpin xl vcpu-pin corunner 3 1-4
must reserve-off microslice pool reserve off
must resize-4 microslice pool resize 4
alive works-with-micro-cores-only corunner
must adaptive microslice pool auto --mode adaptive --min 1 --max 2
alive works-with-adaptive-sizing corunner
refused bad-bounds "at least" microslice pool auto --min 3 --max 2
is sizing-kept 1 "$(pool_value Pool-0 min_micro)"
for row in none eager borrow grace paper; do
    must "policy-$row" microslice domain policy corunner $row
    alive "works-with-$row" corunner
done
refused grace-fits-preemption "preemption only" microslice domain policy corunner --event grace
is policy-kept micro "$(microslice domain show corunner --json | sed -n 's/.*"event": "\([a-z]*\)".*/\1/p')"
must resize-1-again microslice pool resize 1

phase pools
must cpu-off-4 xl cpupool-cpu-remove Pool-0 4
must cpu-off-3 xl cpupool-cpu-remove Pool-0 3
alive works-without-2-pcpus corunner
# Inside the pool pCPU 4 is number 0 and pCPU 3 number 1; from the outside they are 4 and 3.
must pool-create xl cpupool-create 'name="second"' 'sched="microslice"' 'cpus="4"'
must second-on-3 xl cpupool-cpu-add second 3
refused which-cpupool "'Pool-0' and 'second' are under microslice: choose one with --pool" microslice pool resize 1
must second-resize microslice pool resize --pool second 1
is second-micro-core-is-4 4 "$(shown second micro_cpus)"
must move-there xl cpupool-migrate corunner second
alive works-in-second corunner
must push-there microslice symbols push corunner /tmp/ranges.json
must second-resize-0 microslice pool resize --pool second 0
must pin-to-3 xl vcpu-pin corunner all 3
alive works-on-3 corunner
is is-on-3 "3 " "$(cpus_of corunner)"
must pin-to-none xl vcpu-pin corunner all all
microslice trace record --pool second --seconds 3600 /tmp/second.trace >/tmp/second.out 2>&1 &
second_tracer=$!
# pCPU 2 becomes what pCPU 4 was.
must second-gives-4 xl cpupool-cpu-remove second 4
must pool-gives-2 xl cpupool-cpu-remove Pool-0 2
must second-on-2 xl cpupool-cpu-add second 2
must second-resize-with-2 microslice pool resize --pool second 1
is second-micro-core-is-3 3 "$(shown second micro_cpus)"
must second-resize-0-with-2 microslice pool resize --pool second 0
must pin-to-2 xl vcpu-pin corunner all 2
alive works-on-2 corunner
is is-on-2 "2 " "$(cpus_of corunner)"
must pin-to-none-again xl vcpu-pin corunner all all
must second-gives-2 xl cpupool-cpu-remove second 2
must pool-takes-2 xl cpupool-cpu-add Pool-0 2
must second-takes-4 xl cpupool-cpu-add second 4
kill -INT $second_tracer
must second-trace-recorded wait $second_tracer
must second-trace-replayed microslice trace replay /tmp/second.trace
microslice trace show /tmp/second.trace >/tmp/second.txt
is trace-shows-2-3-and-4 "2 3 4 " "$(grep -o 'pCPU [0-9]*' /tmp/second.txt | awk '{ print $2 }' | sort -u | tr '\n' ' ')"
is trace-shows-who-joins "2 4 " "$(grep -o 'pCPU [0-9]* joins' /tmp/second.txt | awk '{ print $2 }' | tr '\n' ' ')"
must move-back xl cpupool-migrate corunner Pool-0
must pin-again xl vcpu-pin corunner all 1-4
must push-back microslice symbols push corunner /tmp/ranges.json
# The idle units of these pCPUs remember units that the move freed.
must second-off-4 xl cpupool-cpu-remove second 4
must second-on-4 xl cpupool-cpu-add second 4
must second-resize-1 microslice pool resize --pool second 1
refused second-too-big "micro" microslice pool resize --pool second 2
alive works-beside-second corunner
must second-destroy xl cpupool-destroy second
must third-create xl cpupool-create 'name="third"' 'sched="credit"' 'cpus="3"'
refused other-scheduler "credit" microslice pool resize --pool third 1
must third-destroy xl cpupool-destroy third
must cpu-on-3 xl cpupool-cpu-add Pool-0 3
must cpu-on-4 xl cpupool-cpu-add Pool-0 4
alive works-with-all-pcpus corunner

phase pcpus
# The host's own pCPUs, not only the cpupool's; 4 is the micro core.
must host-cpu-off-4 xen-hptool cpu-offline 4
is off-in-the-pool 0-3 "$(shown Pool-0 cpus)"
is next-micro-core-is-3 3 "$(shown Pool-0 micro_cpus)"
must host-cpu-off-2 xen-hptool cpu-offline 2
alive works-without-2-and-4 corunner
must host-cpu-on-4 xen-hptool cpu-online 4
must host-cpu-on-2 xen-hptool cpu-online 2
is all-are-back 0-4 "$(shown Pool-0 cpus)"
is micro-core-is-4-again 4 "$(shown Pool-0 micro_cpus)"
alive works-after-offline corunner

phase trace
kill -INT $tracer
must trace-recorded wait $tracer
must trace-replayed microslice trace replay /tmp/pool.trace
is trace-has-all yes "$(microslice trace replay /tmp/pool.trace --json | sed -n 's/.*"events": [0-9]\{4,\},.*/yes/p')"
refused trace-room-too-large "262144" microslice trace record --room 262145 /tmp/none.trace
refused trace-is-none "not a trace" microslice trace replay /tmp/ranges.json
collect trace cat /tmp/trace.out
microslice trace record --room 1 --seconds 60 /tmp/full.trace >/tmp/full.out 2>&1
must full-buffer-is-told grep -q "Xen's buffer was full after .*: give more --room" /tmp/full.out
# A cpupool has one trace at a time.
microslice trace record --seconds 60 /tmp/first.trace >/tmp/first.out 2>&1 &
first=$!
soon first-trace-runs 5 test -e /tmp/first.trace.partial
refused trace-beside-a-trace "another microslice trace record is running" microslice trace record --seconds 1 /tmp/beside.trace
kill -INT $first
must first-trace-ends wait $first
must first-trace-replays microslice trace replay /tmp/first.trace
must nothing-half-is-left test ! -e /tmp/beside.trace -a ! -e /tmp/beside.trace.partial
must exported sh -c 'microslice trace export /tmp/first.trace | tail -n 1 | grep -qx "]}"'

phase destroy
must destroy xl destroy corunner
gone corunner
rm -f "$(log_of corunner)"
must create-again xl create -q -e -p /job/corunner.cfg
refused push-before-boot "wait until it has booted" microslice symbols push corunner /tmp/ranges.json
must unpause-again xl unpause corunner
await corunner progress 120 || { dump_guest corunner; fail "second corunner not at work"; }
must push-to-new microslice symbols push corunner /tmp/ranges.json
alive new-domain-works corunner
must destroy-again xl destroy corunner
gone corunner
collect stats microslice stats --json
is no-decision-rejected 0 "$(pool_value Pool-0 rejected)"
phase done
exit 0

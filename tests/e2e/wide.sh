#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-only
# A host of more pCPUs than a cpupool holds, on real Xen, in dom0: with groups of 4, Pool-0 takes the first 64 in 16 groups, the
# others make up a pool of their own. Boot with sched=microslice microslice_group_cpus=4, 68 pCPUs.
. /agent/lib.sh
. /agent/check.sh

pool_value() { microslice pool show "$1" | sed -n "s/^$2 *: *//p"; }
cpus_of() { xl vcpu-list "$1" | awk 'NR > 1 && $4 != "-" { print $4 }' | sort -u | tr '\n' ' '; }
progress() { grep -c '"ev":"progress"' "$(log_of corunner)"; }
works() { [ "$(progress)" -gt "$1" ]; }

phase full
is pool-0-has-64 0-63 "$(pool_value Pool-0 cpus)"
# xl says so and ends with 0 all the same.
xl cpupool-cpu-add Pool-0 64 >/tmp/out 2>&1
is the-65th-is-refused yes "$(grep -qi 'no space left' /tmp/out && echo yes || tr '\n' ' ' </tmp/out)"
is pool-0-has-64-still 0-63 "$(pool_value Pool-0 cpus)"

# A pCPU that comes online goes to Pool-0, which has no room for this one.
must host-cpu-off-5 xen-hptool cpu-offline 5
must pool-0-takes-64 xl cpupool-cpu-add Pool-0 64
must host-cpu-on-5 xen-hptool cpu-online 5
is pool-0-has-no-room-for-5 0-4,6-64 "$(pool_value Pool-0 cpus)"
must pool-0-gives-64 xl cpupool-cpu-remove Pool-0 64
must pool-0-takes-5 xl cpupool-cpu-add Pool-0 5

phase second
must second-create xl cpupool-create 'name="second"' 'sched="microslice"' 'cpus="64-67"'
must second-resize microslice pool resize --pool second 1
is second-micro-core-is-67 67 "$(pool_value second micro_cpus)"
must guest xl create -q -e /job/corunner.cfg
must move-there xl cpupool-migrate corunner second
must pin-to-66 xl vcpu-pin corunner all 66
await corunner progress 120 || { dump_guest corunner; fail "corunner not at work"; }
soon works-on-66 5 works $(($(progress) + 2))
is is-on-66 "66 " "$(cpus_of corunner)"
must second-gives-65 xl cpupool-cpu-remove second 65
must pool-0-gives-40 xl cpupool-cpu-remove Pool-0 40
# What pCPU 65 was in the pool, pCPU 40 is now; and the other way round.
must second-takes-40 xl cpupool-cpu-add second 40
must pool-0-takes-65 xl cpupool-cpu-add Pool-0 65
must pin-to-40 xl vcpu-pin corunner all 40
soon works-on-40 5 works $(($(progress) + 2))
is is-on-40 "40 " "$(cpus_of corunner)"
must unpin xl vcpu-pin corunner all all
must pool-0-resize microslice pool resize --pool Pool-0 1
# The highest of each group; 65 has the place of 40.
is pool-0-has-16-micro-cores 3,7,11,15,19,23,27,31,35,39,47,51,55,59,63,65 "$(pool_value Pool-0 micro_cpus)"
must move-back xl cpupool-migrate corunner Pool-0
must pin-to-65 xl vcpu-pin corunner all 65
soon works-on-65 5 works $(($(progress) + 2))
is is-on-65 "65 " "$(cpus_of corunner)"
is no-decision-rejected "0 0 " "$(echo "$(pool_value Pool-0 rejected) $(pool_value second rejected) ")"
phase done
exit 0

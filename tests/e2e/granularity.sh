#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-only
# Whole sockets are scheduled, on real Xen, in dom0: what the scheduler sees as a pCPU is a socket of two, and two vCPUs of a guest
# are one unit. Boot with sched=microslice sched-gran=socket microslice_group_cpus=64, three sockets of two pCPUs.
. /agent/lib.sh
. /agent/check.sh

value() { microslice pool show Pool-0 | sed -n "s/^$1 *: *//p"; }
of() { microslice domain show "$1" --json | sed -n "s/^ *\"$2\": \"\{0,1\}\([^,\"]*\).*/\1/p" | head -1; }
above() { got=$(of "$1" "$2"); echo "$2 is '$got'"; [ "${got:-0}" -gt "$3" ]; }
progress() { grep -c '"ev":"progress"' "$(log_of corunner)"; }
works() { [ "$(progress)" -gt "$1" ]; }
alive() { soon "$1" 20 works $(($(progress) + 2)); }

phase boot-guests
xl dmesg | grep -q "granularity: socket, 2 CPUs" || fail "Xen does not schedule sockets: $(xl dmesg | grep -i granularity)"
boot_guests
must row-corunner microslice domain policy corunner paper
must row-target microslice domain policy target paper
collect pool microslice pool show Pool-0
must micro-core microslice pool resize 1

phase beside-each-other
must unpause-corunner xl unpause corunner
must unpause-target xl unpause target
await target done 300 200 || { dump_guest target; dump_guest corunner; collect target microslice domain show target; collect vcpus xl vcpu-list; collect dump sh -c "xl debug-keys r; xl dmesg | tail -60"; fail "target not done"; }
collect target microslice domain show target
collect vcpus xl vcpu-list
soon target-was-seen 1 above target yields_ipi 0
soon target-was-helped 1 above target accel_ipi 0

phase comes-and-goes
alive corunner-works
must pause xl pause corunner
must unpause xl unpause corunner
alive corunner-works-after-a-pause
must no-micro-core microslice pool resize 0
alive corunner-works-without-a-micro-core
must pin xl vcpu-pin corunner all 2-3
alive corunner-works-on-one-socket
must unpin xl vcpu-pin corunner all all
must vcpus xl vcpu-set corunner 1
alive corunner-works-on-one-vcpu
must destroy xl destroy corunner
is no-decision-rejected 0 "$(microslice pool show Pool-0 --json | sed -n 's/.*"rejected": \([0-9]*\).*/\1/p')"
phase done
exit 0

#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-only
# The package and the daemon on real Xen, in dom0: installed, started, and then only `xl` is used. What the daemon does is read
# with the commands and from its metrics. Boot with sched=microslice, 4 + 1 pCPUs.
. /agent/lib.sh
. /agent/check.sh
PATH=/usr/sbin:$PATH
export LIBXL_SAVE_HELPER=/bin/libxl-save-helper
FILE=/etc/microslice/policy.yaml

# value DOMAIN KEY: from the hypervisor.
value() { microslice domain show "$1" --json | sed -n "s/^ *\"$2\": \"\{0,1\}\([^,\"]*\).*/\1/p" | head -1; }
above() { got=$(value "$1" "$2"); echo "$2 is '$got'"; [ "${got:-0}" -gt "$3" ]; }
equal() { got=$(value "$1" "$2"); echo "$2 is '$got'"; [ "$got" = "$3" ]; }
metric() { wget -q -O - http://127.0.0.1:9713/metrics | grep "^$1"; }
logged() { grep -q "$1" /tmp/daemon.log; }
start_daemon() { microslice daemon >>/tmp/daemon.log 2>&1 & daemon=$!; }
# A second kernel.
sed -i 's#/boot/vmlinux"#/boot/vmlinux-newer"#' /job/target.cfg
# It works until it is destroyed.
sed -i 's/ms.jobs=[^ ]*/ms.jobs=shootdown:secs=3600:warm_ms=150/' /job/target.cfg
# What the daemon has done and has open: turns on a pCPU of all its threads, and descriptors.
turns() { cat /proc/$daemon/task/*/status | awk '/ctxt_switches/ { sum += $2 } END { print sum }'; }
descriptors() { ls /proc/$daemon/fd | wc -l; }
# ranges NAME GUEST SECONDS: it gets them; else the daemon's log tells.
ranges() { soon "$1" "$3" above "$2" ranges 0 || collect "daemon-at-$1" cat /tmp/daemon.log; }
# boot NAME: create it with xl, alone; until it has booted.
boot() {
    rm -f "$(log_of "$1")"
    xl create -q "/job/$1.cfg" || fail "create $1"
    await "$1" booted 240 || { dump_guest "$1"; collect daemon cat /tmp/daemon.log; fail "$1 not booted"; }
}
# policy: the file, with what is read from stdin for its domains.
policy() {
    echo "microslice-policy: 1"
    echo "metrics: 127.0.0.1:9713"
    echo "pools: {Pool-0: {micro-cores: 1, grace: 200us}}"
    echo "domains:"
    cat
}

phase install
mkdir -p /var/lib/dpkg/info
: >/var/lib/dpkg/status
# The libraries in dom0's image are no packages.
must install dpkg -F depends -i /job/microslice.deb
for file in /usr/sbin/microslice /lib/systemd/system/microslice.service $FILE /usr/share/man/man8/microslice-daemon.8.gz \
    /usr/share/bash-completion/completions/microslice; do
    must "installed-${file##*/}" test -s $file
done
must sample-policy microslice policy check $FILE
ifconfig lo up
policy >$FILE <<END
- {name: corunner, weight: 512, policy: borrow}
- {name: '*', policy: paper}
END

phase daemon
start_daemon
soon pool-is-set 5 logged "micro-cores 0 -> 1"
phase boot-corunner
boot corunner
# The first of a kernel has to be unpacked, which takes seconds in emulation; later ones have their ranges at once.
ranges corunner-has-ranges corunner 60
is corunner-weight 512 "$(value corunner weight)"
is corunner-row borrow "$(value corunner event)"
# A guest boots several times as fast without a busy one beside it.
xl pause corunner
phase boot-target
boot target
ranges target-has-ranges target 1
is target-row micro "$(value target event)"
# That what a vCPU waits for is seen, later, is because of them.
phase no-ranges
must drop microslice symbols drop target
waits="$(value target accel_ipi) $(value target accel_lock)"
others=$(value target yields_other)
xl unpause corunner
soon yields-without-ranges 60 above target yields_other $((others + 20))
is not-accelerated-without-ranges "$waits" "$(value target accel_ipi) $(value target accel_lock)"
xl pause corunner
xl pause target
kill -HUP $daemon
soon has-ranges-again 5 above target ranges 0
phase accelerate
xl unpause target
xl unpause corunner
soon target-accelerated 60 above target accel_ipi 0
must metrics-ranges metric 'microslice_domain_ranges{domain="target"'
must metrics-accelerations metric 'microslice_domain_accelerations_total{domain="target",.*cause="ipi"} [1-9]'
must metrics-active metric 'microslice_daemon_domains{state="active"} 2'
# The rest is about state, and dom0 alone is quick.
xl pause target
turns=$(turns)
usleep 3000000
is idle-daemon-sleeps "$turns" "$(turns)"

phase policy
must apply-dry microslice policy apply --dry-run $FILE
is nothing-to-apply "" "$(microslice policy apply --dry-run $FILE 2>&1)"
must dump microslice policy dump /tmp/dump.yaml
must check-dump microslice policy check /tmp/dump.yaml
is dump-changes-nothing "" "$(microslice policy apply /tmp/dump.yaml 2>&1)"
policy >/tmp/bad.yaml <<END
- {name: corunner, weight: 100, cap: 9999}
END
sed -i 's/200us/300us/' /tmp/bad.yaml
microslice policy apply /tmp/bad.yaml >/tmp/out 2>&1
is half-policy-refused 1 $?
must half-policy-says-why grep -q "cap 9999: expected 0 to 400" /tmp/out
is half-policy-undone 200 "$(microslice pool show Pool-0 --json | sed -n 's/.*"grace_us": \([0-9]*\).*/\1/p')"
is half-policy-weight 512 "$(value corunner weight)"

phase reload
echo "colour: red" >>$FILE
kill -HUP $daemon
soon bad-policy-said 5 logged "unknown field .colour.*the policy stays as it was"
is bad-policy-changes-nothing 512 "$(value corunner weight)"
policy >$FILE <<END
- {name: corunner, weight: 300}
- {name: renamed, weight: 700, policy: grace}
- {name: '*', policy: paper}
END
kill -HUP $daemon
soon reloaded 5 equal corunner weight 300
must rename xl rename corunner renamed
soon renamed 5 equal renamed weight 700
is renamed-row grace "$(value renamed preemption)"

phase kill
generation=$(value renamed generation)
must second-daemon-refused sh -c '! microslice daemon 2>/tmp/second && grep -q "another microslice daemon is running" /tmp/second'
kill -9 $daemon
is ranges-outlive-the-daemon "$generation" "$(value renamed generation)"
rm -f /tmp/daemon.log
start_daemon
soon reconciled 60 logged "'renamed'.* ranges of "
soon target-reconciled 60 logged "'target'.* ranges of "
is reconciled-without-a-push "$generation" "$(value renamed generation)"

phase destroy
must destroy xl destroy target
soon target-forgotten 5 logged "'target'.* is gone"
xl unpause renamed
must destroy-renamed xl destroy renamed

# kill -9 while a domain is being created: the next daemon makes up for it.
phase kill-while-creating
rm -f "$(log_of target)"
xl create -q /job/target.cfg || fail "create target"
usleep 300000
kill -9 $daemon
start_daemon
await target booted 240 || { dump_guest target; fail "target not booted"; }
ranges new-target-has-ranges target 60
before=$(xl domid target)
descriptors=$(descriptors)
phase reboot
rm -f "$(log_of target)"
must reboot xl reboot target
await target booted 240 || { dump_guest target; collect daemon cat /tmp/daemon.log; fail "target not booted again"; }
ranges rebooted-target-has-ranges target 1
must another-domain test "$before" != "$(xl domid target)"
# What an incoming migration ends in: a domain that has booted elsewhere. (The emulator breaks guests under log-dirty mode, with
# every scheduler, so a live one cannot be had here.)
phase restore
before=$(xl domid target)
# The root file system has no room for it.
mkdir -p /mnt
must mount mount -t tmpfs -o size=200m saved /mnt
must save xl save target /mnt/target
must restore xl restore /mnt/target
must umount umount /mnt
ranges restored-target-has-ranges target 1
must restored-is-another-domain test "$before" != "$(xl domid target)"
is no-descriptor-leaks "$descriptors" "$(descriptors)"
must doctor microslice doctor

# Its data die with it, names of guests too; the hypervisor's do not.
phase xenstored
id=$(xl domid target)
generation=$(value target generation)
kill -9 "$(pidof xenstored)"
soon xenstored-missed 5 logged "xenstored is gone"
collect daemon-before cat /tmp/daemon.log
: >/tmp/daemon.log
xenstored || bad xenstored-again "status $?"
xen-init-dom0 >/dev/null || bad xen-init-dom0-again "status $?"
soon connected-again 5 logged "'Domain-0'"
is ranges-outlive-xenstored "$generation" "$(value "$id" generation)"
kill -HUP $daemon
soon reloads-after-xenstored 5 logged "read again"
kill -TERM $daemon
wait $daemon
is daemon-ends 0 $?
collect daemon cat /tmp/daemon.log
is no-decision-rejected 0 "$(microslice pool show Pool-0 --json | sed -n 's/.*"rejected": \([0-9]*\).*/\1/p')"
phase done
exit 0

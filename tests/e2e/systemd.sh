#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-only
# The package on a dom0 whose PID 1 is systemd: what its scripts do, and the daemon inside of all that its unit forbids.
# Boot with sched=microslice, 4 + 1 pCPUs.
. /agent/lib.sh
. /agent/check.sh
PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
FILE=/etc/microslice/policy.yaml

value() { microslice domain show "$1" --json | sed -n "s/^ *\"$2\": \"\{0,1\}\([^,\"]*\).*/\1/p" | head -1; }
above() { got=$(value "$1" "$2"); echo "$2 is '$got'"; [ "${got:-0}" -gt "$3" ]; }
equal() { got=$(value "$1" "$2"); echo "$2 is '$got'"; [ "$got" = "$3" ]; }
state_is() { got=$(systemctl is-active microslice); echo "is '$got'"; [ "$got" = "$1" ]; }
unit() { systemctl show -P "$1" microslice; }
main() { unit MainPID; }
in_status() { sed -n "s/^$1:[ \t]*//p" "/proc/$(main)/status"; }
# The libraries in dom0 are no packages. By its path: the shell prefers its own.
install_package() { /usr/bin/dpkg --force-depends -i /job/microslice.deb; }
logged() { journalctl -q -u microslice | grep -q "$1"; }
warned() { journalctl -q -p warning -u microslice | grep -q "$1"; }
metric() { wget -q -O - http://127.0.0.1:9713/metrics | grep "^$1"; }
policy() { printf 'microslice-policy: 1\nmetrics: 127.0.0.1:9713\ndomains:\n'; cat; }

phase install
ifconfig lo up
must install install_package
must started state_is active
is enabled enabled "$(systemctl is-enabled microslice)"
is says-when-it-is-ready notify "$(unit Type)"
# Only with all of these is the rest of the run a proof.
is no-new-privileges 1 "$(in_status NoNewPrivs)"
is one-capability 0000000000000004 "$(in_status CapEff)"
is system-calls-are-filtered 2 "$(in_status Seccomp)"
must root-is-read-only grep -q ' / ro,' "/proc/$(main)/mountinfo"

phase boot-guest
# A kernel that is somebody's, in their home.
mkdir -p /home/admin
cp /boot/vmlinux /home/admin/vmlinux
chmod 700 /home/admin
chmod 600 /home/admin/vmlinux
chown -R 1000:1000 /home/admin
sed -i 's#/boot/vmlinux"#/home/admin/vmlinux"#' /job/target.cfg
# It works until it is destroyed.
sed -i 's/ms.jobs=[^ ]*/ms.jobs=shootdown:secs=3600:warm_ms=150/' /job/target.cfg
policy >$FILE <<END
- {name: target, weight: 512, policy: paper}
END
must reload systemctl reload microslice
soon reloaded 10 logged "read again"
xl create -q /job/target.cfg || fail "create target"
await target booted 240 || { dump_guest target; collect log journalctl -q -u microslice; fail "target not booted"; }
soon ranges 60 above target ranges 0
is weight 512 "$(value target weight)"
is row micro "$(value target event)"
generation=$(value target generation)
# dom0 alone is quick.
xl pause target

phase reload
policy >$FILE <<END
- {name: target, weight: 300}
END
must reload-again systemctl reload microslice
soon reloaded-again 10 equal target weight 300
# The daemon has the metrics' address since it started with it.
must restart systemctl restart microslice
soon metrics 10 metric 'microslice_domain_ranges{domain="target"'

phase killed
# Whoever records holds a lock in the daemon's runtime directory.
microslice trace record --seconds 600 /tmp/long.trace >/dev/null 2>/tmp/recorder &
recorder=$!
soon recording 10 test -e /run/microslice/trace.0.0.lock
before=$(main)
kill -9 "$before"
again() { journalctl -q _PID="$(main)" | grep -q "$1"; }
another() { [ "$(main)" != "$before" ] && [ "$(main)" != 0 ] && state_is active; }
soon back-after-a-kill 30 another
is restarts 1 "$(unit NRestarts)"
soon reconciled 60 again "'target'.* ranges of "
is ranges-outlive-the-daemon "$generation" "$(value target generation)"
refused one-recorder "another microslice trace record is running" microslice trace record --seconds 1 /tmp/other.trace
kill -INT $recorder
must recorder-ends wait $recorder

phase upgrade
before=$(main)
must upgrade install_package
soon another-process 30 another
echo "colour: red" >>$FILE
must upgrade-with-a-bad-policy install_package
soon gives-up 60 state_is failed
must says-why warned "unknown field .colour"
policy >$FILE </dev/null
must reset systemctl reset-failed microslice
must start systemctl start microslice
must active-again state_is active

phase stop
must stop systemctl stop microslice
is stopped-well success "$(unit Result)"
is ranges-outlive-the-service "$generation" "$(value target generation)"
must remove /usr/bin/dpkg -r microslice
must unit-is-gone test ! -e /lib/systemd/system/microslice.service
must policy-stays test -s $FILE
collect log journalctl -q -u microslice
phase done
exit 0

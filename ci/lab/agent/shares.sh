#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-only
# CPU hogs of several VMs with weights, all at once. /job/job.sh:
#   DOMAINS="NAME..."  WEIGHT_NAME=N for each  SCHEDULER=credit|credit2|microslice  FOR=virtual seconds
# Guests wait, paused, until all have booted; then idle CPUs are made to spin, so that each has a constant speed.
. /agent/lib.sh
. /job/job.sh

for domain in $DOMAINS; do
    phase "create-$domain"
    xl create -q -e "/job/$domain.cfg" || fail "create $domain"
    await "$domain" booted 120 || { dump_guest "$domain"; fail "$domain not booted"; }
    xl pause "$domain" || fail "pause $domain"
    eval "weight=\$WEIGHT_$domain"
    xl "sched-$SCHEDULER" -d "$domain" -w "$weight" || fail "sched-$SCHEDULER -d $domain -w $weight"
done
xl set-parameters idle-spin=1 || fail "set idle-spin"
for domain in $DOMAINS; do xl unpause "$domain" || fail "unpause $domain"; done
phase measuring
left=$FOR
while [ "$left" -gt 0 ]; do
    sleep 1
    left=$((left - 1))
    phase "measuring-$left"
done
for domain in $DOMAINS; do xl pause "$domain" || fail "pause $domain"; done
phase collect
for domain in $DOMAINS; do print_guest "$domain"; done
collect vcpu-list xl vcpu-list
xl set-parameters idle-spin=0
for domain in $DOMAINS; do xl destroy "$domain" || fail "destroy $domain"; done
phase done
exit 0

#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-only
# CPU hogs of several VMs with weights, all at once. /job/job.sh:
#   DOMAINS="NAME..."  WEIGHT_NAME=N for each  SCHEDULER=credit|credit2|microslice  AT="SECOND..." when CPU times are read
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
second=0
for at in $AT; do
    while [ "$second" -lt "$at" ]; do
        sleep 1
        second=$((second + 1))
        phase "measuring-$second"
    done
    microslice domain list --json >"/tmp/cpu-$at" || fail "domain list"
done
sleep 2
for domain in $DOMAINS; do xl pause "$domain" || fail "pause $domain"; done
phase collect
for domain in $DOMAINS; do print_guest "$domain"; done
for at in $AT; do collect "cpu-$at" cat "/tmp/cpu-$at"; done
xl set-parameters idle-spin=0
for domain in $DOMAINS; do xl destroy "$domain" || fail "destroy $domain"; done
phase done
exit 0

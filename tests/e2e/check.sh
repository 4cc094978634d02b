# SPDX-License-Identifier: GPL-3.0-only
# Functions of the test scripts in dom0. One line a check: "@lab check NAME ok", or what is wrong.

ok() { say "check $1 ok"; }
bad() { name=$1; shift; say "check $name $*"; }

# must NAME COMMAND...: it succeeds.
must() {
    name=$1; shift
    if "$@" >/tmp/must 2>&1; then ok "$name"; else bad "$name" "$*: status $?: $(tr '\n' ' ' </tmp/must)"; fi
}

# is NAME WANTED GOT
is() { if [ "$2" = "$3" ]; then ok "$1"; else bad "$1" "wanted '$2', got '$3'"; fi; }

# soon NAME SECONDS COMMAND...: it succeeds within SECONDS, tried every 50 ms.
soon() {
    name=$1 tries=$(($2 * 20)); shift 2
    until "$@" >/tmp/soon 2>&1; do
        tries=$((tries - 1))
        [ $tries -lt 0 ] && { bad "$name" "$*: not so in time: $(tr '\n' ' ' </tmp/soon)"; return 1; }
        usleep 50000
    done
    ok "$name"
}

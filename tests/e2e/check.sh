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

# soon NAME SECONDS COMMAND...: it succeeds within SECONDS, tried every 50 ms, and twice at least.
soon() {
    name=$1 until=$(($(seconds) + $2)) tries=0; shift 2
    until "$@" >/tmp/soon 2>&1; do
        tries=$((tries + 1))
        if [ "$(seconds)" -gt $until ] && [ $tries -gt 1 ]; then
            bad "$name" "$*: not so in time: $(tr '\n' ' ' </tmp/soon)"
            return 1
        fi
        usleep 50000
    done
    ok "$name"
}
seconds() { read -r now _ </proc/uptime; echo "${now%.*}"; }

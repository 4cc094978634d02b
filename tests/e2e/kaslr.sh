#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-only
# Guests that move their kernel, in dom0: each boots the same bzImage through GRUB and the kernel's own decompressor, and gets its
# ranges where it has moved to, by hand or from the daemon. What is not its kernel, or not its slide, is refused with both
# values. What the guests tell of themselves is judged by ci/lab/src/kaslr.rs.
. /agent/lib.sh
. /agent/check.sh
FILE=/etc/microslice/policy.yaml

# boot NUMBER: until it has told what it has to.
boot() {
    phase "boot-$1"
    printf 'name = "k%s"\ntype = "pvh"\nkernel = "/job/grub.bin"\nmemory = 256\nvcpus = 1\ncpus = "1-4"\ntsc_mode = "native"\non_crash = "preserve"\n' \
        "$1" >/tmp/k.cfg
    xl create -q -e /tmp/k.cfg || fail "create k$1"
    await "k$1" done 120 || { dump_guest "k$1"; collect list xl list; fail "k$1 did not tell its symbols"; }
    collect "guest-$1" grep -a '@kallsyms ' "$(log_of "k$1")"
}

# ranges NUMBER: that Xen has.
ranges() { collect "ranges-$1" microslice domain show "k$1" --ranges --json; }

value() { microslice domain show "$1" --json | sed -n "s/.*\"$2\": \([0-9]*\).*/\1/p" | head -1; }
has_ranges() { count=$(value "$1" ranges); [ "${count:-0}" -gt 0 ]; }

# refused NAME VALUE VALUE COMMAND...: an error that holds both values, and the domain keeps its ranges.
refused() {
    name=$1 one=$2 two=$3 wrong=; shift 3
    before=$(value k1 generation)
    "$@" >/tmp/stdout 2>/tmp/stderr && wrong="it was not refused;"
    for word in "$one" "$two"; do grep -q -e "$word" /tmp/stderr || wrong="$wrong no '$word';"; done
    [ "$before" = "$(value k1 generation)" ] || wrong="$wrong the table has changed;"
    if [ -z "$wrong" ]; then ok "$name"; else bad "$name" "$wrong $(tr '\n' ' ' </tmp/stderr)"; fi
}

# anchor KEY: its address in the range file.
anchor() { sed -n "/\"$1\"/,\$p" /tmp/ranges.json | grep -o '0xffffffff[0-9a-f]*' | head -1; }
# plus ADDRESS BYTES, within the last 4 GiB.
plus() { printf '0xffffffff%08x' $((0x${1#0xffffffff} + $2)); }
# with OLD NEW: the range file with an address replaced.
with() { sed "s/\"$1\"/\"$2\"/" /tmp/ranges.json >/tmp/other.json; }
push() { microslice symbols push k1 "$@" --json; }

phase import
must import microslice symbols import /boot/vmlinuz -o /tmp/ranges.json

boot 1
push /tmp/ranges.json >/tmp/push 2>&1
is pushed 0 $?
collect push-1 cat /tmp/push
ranges 1

phase refuse
slide=$(sed -n 's/.*"slide": "\(0x[0-9a-f]*\)".*/\1/p' /tmp/push)
other=$(printf '0x%x' $((slide ^ 0x200000)))
fault=$(anchor page_fault) syscall=$(anchor entry_SYSCALL_64) banner=$(anchor linux_banner)
must right-slide push /tmp/ranges.json --slide "$slide"
refused wrong-slide "slide $other was asked for" "says slide $slide" push /tmp/ranges.json --slide "$other"
refused no-slide "slide 0x0 was asked for" "says slide $slide" push /tmp/ranges.json --slide none
with "$syscall" "$(plus "$syscall" 64)"
refused other-kernel "MSR_LSTAR is $(plus "$syscall" "$slide")" "the image's is $(plus "$syscall" 64)" push /tmp/other.json
with "$fault" "$(plus "$fault" 64)"
refused other-fault "page-fault entry is $(plus "$fault" "$slide")" "the image's is $(plus "$fault" 64)" push /tmp/other.json
with "$fault" "$(plus "$fault" -0x200000)"
refused entries-disagree "says slide $slide" "says slide $(printf '0x%x' $((slide + 0x200000)))" push /tmp/other.json
sed 's/"kernel": "Linux version 6/"kernel": "Linux version 7/' /tmp/ranges.json >/tmp/other.json
refused other-banner 'image is of "Linux version 7' 'guest runs "Linux version 6' push /tmp/other.json
with "$banner" "$(plus "$banner" 4096)"
refused banner-elsewhere 'image is of "Linux version 6' "banner at $(plus "$banner" $((slide + 4096)))" push /tmp/other.json
sed 's/"native_queued_spin_lock_slowpath"/"native_queued_spin_lock_slowpath [m]"/' /tmp/ranges.json >/tmp/other.json
refused module-elsewhere "slide $slide" "slowpath \[m\]" push /tmp/other.json
must destroy-1 xl destroy k1

# By itself: a rule says which kernel GRUB starts.
phase daemon
mkdir -p /etc/microslice
printf "microslice-policy: 1\ndomains: [{name: 'k*', kernel: /tmp/ranges.json}]\n" >$FILE
microslice daemon >/tmp/daemon.log 2>&1 &
daemon=$!
for number in 2 3; do
    boot $number
    soon "ranges-of-$number" 5 has_ranges k$number || collect daemon cat /tmp/daemon.log
    ranges $number
    must "destroy-$number" xl destroy k$number
done
kill $daemon
phase done
exit 0

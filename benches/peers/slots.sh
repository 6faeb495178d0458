#!/bin/sh
# Two slots on file systems of their own, which hang and are slow, beside a volume on one directory (its slots' disk), or on
# three RAM disks: `slots.sh disk DIR PROGRAM [ARGS]`, `slots.sh zram PROGRAM [ARGS]`. As root; away again, whatever happens.
set -eu
kind=$1
shift
at=$(mktemp -d /tmp/quorate-slots.XXXXXX)
undo=
group=/sys/fs/cgroup/blkio/quorate-slots
child=
away() {
    for d in "$at"/*; do
        fsfreeze -u "$d" 2>/dev/null || true
    done
    [ -z "$child" ] || { kill -9 $child; wait $child; } 2>/dev/null || true
    for d in "$at"/*; do
        umount "$d" 2>/dev/null || true
    done
    eval "$undo"
    rmdir "$group" 2>/dev/null || true
    rm -rf "$at"
}
trap away EXIT
trap 'exit 130' INT TERM HUP
ram() { # its mount
    n=$(cat /sys/class/zram-control/hot_add)
    echo 4G >"/sys/block/zram$n/disksize"
    undo="$undo echo 1 >/sys/block/zram$n/reset; echo $n >/sys/class/zram-control/hot_remove;"
    device=/dev/zram$n
    mount_it "$1"
}
file() { # its mount
    truncate -s 2G "$dir/quorate-slots-$1.img"
    device=$(losetup --direct-io=on --show -f "$dir/quorate-slots-$1.img")
    undo="$undo losetup -d $device; rm -f $dir/quorate-slots-$1.img;"
    mount_it "$1"
}
mount_it() {
    mkdir "$at/$1"
    mkfs.ext4 -q "$device"
    mount "$device" "$at/$1"
}
if [ "$kind" = disk ]; then
    dir=$1
    shift
    file hang
    file slow
    where=$dir
else
    for i in 1 2 3; do ram $i; done
    ram hang
    ram slow
    where=$at/1,$at/2,$at/3
fi
number=$(cat "/sys/block/$(basename "$device")/dev")
mkdir -p "$group"
# In the background, and in the group: a signal ends this script though the program hangs in a frozen file system.
sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group" "$@" --at "$where" --hang "$at/hang" --slow "$at/slow" \
    --device "$number" --group "$group" &
child=$!
wait $child

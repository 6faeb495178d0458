#!/bin/sh
# Three RAM disks (zram, ext4), the bench on them, and away with them, whatever happens. As root.
# Each holds up to 4 GiB, of memory that is taken only as it is written.
#     ./zram.sh target/release/quorate-peers --json out.json
set -eu
at=$(mktemp -d /tmp/quorate-peers.XXXXXX)
disks=
away() {
    for n in $disks; do
        umount "$at/$n" 2>/dev/null || true
        echo 1 >"/sys/block/zram$n/reset" || true
        echo "$n" >/sys/class/zram-control/hot_remove || true
        rmdir "$at/$n"
    done
    rmdir "$at"
}
trap away EXIT
trap 'exit 130' INT TERM HUP
where=
for i in 1 2 3; do
    n=$(cat /sys/class/zram-control/hot_add)
    mkdir "$at/$n"
    disks="$disks $n"
    echo 4G >"/sys/block/zram$n/disksize"
    mkfs.ext4 -q "/dev/zram$n"
    mount "/dev/zram$n" "$at/$n"
    where="$where,$at/$n"
done
"$@" --at "${where#,}"

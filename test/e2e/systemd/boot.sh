#!/bin/bash
# Boots the systemd in folder $1, or what follows, as PID 1, in the namespaces that this script was started in: mount, pid, uts, ipc, net
# and cgroup, all fresh. Nothing of it outlives its PID 1.
set -euo pipefail
root=${1:?a folder with a Debian in it}
shift
(($#)) || set -- /lib/systemd/systemd --unit=multi-user.target --log-target=journal-or-kmsg --show-status=0

mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"

mount -t tmpfs -o mode=0755,size=1m tmpfs "$root/dev"
for device in null zero full random urandom tty; do
  : >"$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
: >"$root/dev/console"
mount -t tmpfs -o mode=0755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"

ip link set lo up || ifconfig lo up

cd "$root"
pivot_root . mnt
umount -l /mnt
mount --make-rshared / # as systemd does where it is no container: credentials come by propagation
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"

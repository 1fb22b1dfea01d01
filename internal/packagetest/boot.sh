#!/usr/bin/env bash
# Becomes the init of a host: boot.sh ROOT NAME GROUP, as pid 1 of namespaces of
# its own but for the control groups', which begins at GROUP. What the host writes
# is gone with it.
set -euo pipefail
root=$1 name=$2 group=$3
if [ $# = 3 ]; then
  echo $$ >"$group/cgroup.procs"
  exec unshare --cgroup "$0" "$@" there
fi
mount --make-rprivate /
dir=$(dirname "$root")/hosts
mkdir -p "$dir"
mount -t tmpfs tmpfs "$dir"
mkdir "$dir/upper" "$dir/work" "$dir/root"
mount -t overlay overlay -o "lowerdir=$root,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
cd "$dir/root"
hostname "$name"
echo "$name" >etc/hostname
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
# Most of what is there belongs to the whole machine. Networks' settings don't, but
# no unit is to apply any.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -o remount,bind,ro sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
  touch "dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm old
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for unit in systemd-sysctl systemd-modules-load systemd-random-seed; do
  ln -sf /dev/null "etc/systemd/system/$unit.service"
done
rm -f etc/systemd/system/timers.target.wants/* # upgrades, trimming and the like
pivot_root . old
umount -l /old
rmdir /old
exec env -i container=had PATH=/usr/sbin:/usr/bin:/sbin:/bin /sbin/init

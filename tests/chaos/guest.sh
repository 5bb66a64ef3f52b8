#!/bin/sh
# The first process of a kernel of its own (Kernel in worlds.py starts it): makes a root to write on, and runs a
# command there. OUT is a folder of the machine around: `folders` must be seen in the new root, `command` is run.
set -e
[ $$ = 1 ] || exit 1
mount -t tmpfs -o mode=755 root /mnt
cd /mnt
mkdir dev out proc run sys tmp usr
chmod 1777 tmp
cp -a /bin /sbin /lib /lib64 /etc .
mount --bind /usr usr
while read -r folder; do
    mkdir -p ".$folder"
    mount -t hostfs -o "$folder" folder ".$folder"
done <"$OUT/folders"
mount --bind /dev dev
mkdir -p dev/shm
mount -t tmpfs shm dev/shm
mount -t proc proc proc
mount -t sysfs sys sys
mount -t hostfs -o "$OUT" out out
ip link set lo up
exec chroot . /bin/sh /out/command

#!/bin/bash
# Becomes process 1 of a machine of its own, in namespaces that machine.py has made: a systemd whose
# units, and all that is written to /etc and /var, are its own. $1: the folder for what it writes.
set -eu
folder=$1
mount -t proc proc /proc
for place in etc var; do
    mkdir -p "$folder/$place" "$folder/$place.work"
    mount -t overlay overlay -o "lowerdir=/$place,upperdir=$folder/$place,workdir=$folder/$place.work" "/$place"
done
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# Nothing that is enabled on this machine is to start in that one.
mount -t tmpfs tmpfs /etc/systemd/system
mkdir -p /run/systemd/system /run/base /etc/systemd/journald.conf.d
cp "$folder"/base/* /run/base/
printf '[Journal]\nReadKMsg=no\nStorage=volatile\n' > /etc/systemd/journald.conf.d/apart.conf
# What systemd mounts for a service in a namespace of its own, such as credentials, is to be seen here
# too, as on any machine; nothing of it is seen outside, from which this one was cut off.
mount --make-rshared /
exec env -i PATH="$PATH" container=unshare SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/base \
    SYSTEMD_GENERATOR_PATH=/nonexistent /lib/systemd/systemd --system --unit=machine.target \
    --log-target=journal --log-level=info

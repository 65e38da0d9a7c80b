#!/bin/busybox sh
# The guest's first process in its own root: devices, network and RDMA, then the agent that does what the host asks for. Both images are
# read-only; what is written lies in memory, except on the NVMe drive. When it ends, the machine is switched off.
set -u
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C.UTF-8 PYTHONPATH=/opt/cairn/site

switch_off() {
  busybox sync
  busybox poweroff -f
}

need() { "$@" || { echo "cairn: this failed in the guest: $*"; switch_off; }; }

alias_busybox() { for word in "$@"; do eval "$word() { busybox $word \"\$@\"; }"; done; }
alias_busybox mount mkdir ls cat sleep

mount_all() {
  need mount -t proc proc /proc
  need mount -t sysfs sysfs /sys
  need mount -t devtmpfs devtmpfs /dev
  need mkdir -p /dev/shm
  for folder in /dev/shm /run /tmp; do need mount -t tmpfs tmpfs "$folder"; done
}

# Each by name and each of them needed: one that does not load would be missed only much later.
load_modules() {
  for module in virtio_console nvme dummy rdma_ucm ib_uverbs rdma_rxe; do need modprobe "$module"; done
}

make_rdma() {
  need ip link set lo up
  need ip link add cairn0 type dummy
  need ip link set cairn0 mtu 9000 up
  need ip address add 10.77.0.1/24 dev cairn0
  need rdma link add rxe0 type rxe netdev cairn0
}

# The kernel looks at the drive in the background.
wait_for_drive() {
  for _ in $(busybox seq 600); do [ -c /dev/ng0n1 ] && return; sleep 0.05; done
  need ls -l /dev/ng0n1
}

mount_all
load_modules
make_rdma
wait_for_drive
ulimit -l unlimited # of memory for the device, as a service that does RDMA has
need python3 -m cairn_qemu.agent
switch_off

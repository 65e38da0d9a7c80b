#!/bin/bash
# The first and only process of the testbed's machine: makes its devices, runs the command, switches the machine off.
#
# tools/testbed/run.py gives it, as words on the kernel's command line, testbed_folder (which holds `command` and gets
# `up` before that runs, and `status` after it), testbed_rdma, testbed_nvme and testbed_nvme_mb; testbed_emulated where it is
# QEMU and not User-Mode Linux. What it says itself goes to the console, which is shown when the machine does not come up.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

switch_off() {
  sync
  echo o >/proc/sysrq-trigger
  while :; do sleep 60; done # the kernel panics when its first process ends
}

need() { "$@" || { echo "testbed: this failed in the machine: $*"; switch_off; }; }

mount_all() {
  need mount -t proc proc /proc
  need mount -t sysfs sysfs /sys
  mountpoint -q /dev || need mount -t devtmpfs devtmpfs /dev
  mkdir -p /dev/pts /dev/shm
  need mount -t devpts devpts /dev/pts
  need mount -t tmpfs shm /dev/shm
  need mount -t tmpfs run /run # the root is the host's: what its services keep in /run must not be ours
  need mount -t configfs configfs /sys/kernel/config
  ln -sfn /proc/self/fd /dev/fd
}

make_rdma() {
  need ip link set lo up
  local number
  for number in $(seq 0 $((testbed_rdma - 1))); do
    ip link show "dummy$number" >/dev/null 2>&1 || need ip link add "dummy$number" type dummy
    need ip link set "dummy$number" mtu 9000 up
    need ip address add "10.77.0.$((number + 1))/24" dev "dummy$number"
    need rdma link add "rxe$number" type rxe netdev "dummy$number"
  done
}

# What is behind namespace $1: a loop device over a file in memory, or with --nvme-apart a disk whose bytes the host moves.
# Odd loop devices have logical blocks of 512 bytes, even ones of 4096, so that both are met.
make_backing() {
  local ubd=/dev/ubd$(printf "\\x$((60 + $1))")
  backing=/dev/loop$1
  if [ -b "$ubd" ]; then
    backing=$ubd
    return
  fi
  need truncate -s "${testbed_nvme_mb}M" "/run/nvme/$1"
  [ -b "$backing" ] || need mknod "$backing" b 7 "$1"
  need losetup -b $((512 << 3 * (($1 + 1) % 2))) "$backing" "/run/nvme/$1"
}

# Subsystem $1 of the kernel's own NVMe target, and its controller.
make_namespace() {
  local target=/sys/kernel/config/nvmet subsystem=/sys/kernel/config/nvmet/subsystems/cairn$1 backing
  make_backing "$1"
  need mkdir -p "$subsystem/namespaces/1"
  need tee "$subsystem/attr_allow_any_host" <<<1
  need tee "$subsystem/namespaces/1/device_path" < <(printf %s "$backing")
  need tee "$subsystem/namespaces/1/enable" <<<1
  need ln -s "$subsystem" "$target/ports/1/subsystems/cairn$1"
  need tee /dev/nvme-fabrics < <(printf 'transport=loop,nqn=cairn%s' "$1")
}

make_target() {
  need mkdir -p /run/nvme /sys/kernel/config/nvmet/ports/1
  need mount -t tmpfs -o "size=$((testbed_nvme * testbed_nvme_mb + 64))m" nvme /run/nvme
  need tee /sys/kernel/config/nvmet/ports/1/addr_trtype <<<loop
}

# The emulated machine has drives of QEMU's; Debian's kernel has no NVMe target of transport `loop`.
make_nvme() {
  [ "$testbed_nvme" -gt 0 ] || return
  [ -n "${testbed_emulated:-}" ] || make_target
  local number namespace
  for number in $(seq "$testbed_nvme"); do
    [ -n "${testbed_emulated:-}" ] || make_namespace "$number"
    namespace=/dev/ng$((number - 1))n1
    for _ in $(seq 500); do [ -c "$namespace" ] && break; sleep 0.01; done # the controller looks for it in the background
    need [ -c "$namespace" ]
  done
}

# The serial port $1 of virtio.
port() {
  local name
  for name in /sys/class/virtio-ports/*/name; do
    [ "$(cat "$name")" != "$1" ] || { name=${name%/name}; echo "/dev/${name##*/}"; }
  done
}

# What the command writes goes to descriptors 3 and 4.
open_streams() {
  if [ -n "${testbed_emulated:-}" ]; then
    exec 3<>"$(port stdout)" 4<>"$(port stderr)"
  else
    stty -F /dev/tty1 raw -echo
    stty -F /dev/tty2 raw -echo
    exec 3>/dev/tty1 4>/dev/tty2
  fi
}

# Waits for what is on its way to the host. A port of virtio cannot wait: the host answers the end of the stream.
finish_streams() {
  if [ -n "${testbed_emulated:-}" ]; then
    printf '\0%s' "${testbed_folder##*/}" >&3
    printf '\0%s' "${testbed_folder##*/}" >&4
    read -r <&3
    read -r <&4
  else
    stty -F /dev/tty1 -echo
    stty -F /dev/tty2 -echo
  fi
}

# Through pipes, so that the command does not take the console's lines for a terminal.
run_command() {
  open_streams
  {
    {
      bash "$testbed_folder/command" </dev/null 3>&- 4>&-
      echo $? >"$testbed_folder/status"
    } | cat >&3
  } 2>&1 >/dev/null | cat >&4
  finish_streams
}

mount_all
ulimit -l unlimited # of memory for the device, as a service that does RDMA has
make_rdma >/dev/null
make_nvme >/dev/null
touch "$testbed_folder/up"
run_command
switch_off

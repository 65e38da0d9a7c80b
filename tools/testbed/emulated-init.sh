#!/bin/busybox sh
# The emulated testbed's first program: loads the kernel's modules, mounts the host's root file system, and goes on in there with
# guest.sh, whose words on the kernel's command line are its environment. When it ends, the kernel panics, and the machine with it.
set -e
/bin/busybox mkdir -p /proc /dev /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs devtmpfs /dev
for module in $(/bin/busybox cat /modules.order); do
  parameters=
  # With its multipath a controller that is taken away leaves its namespace behind, which waits for another: not what drives do.
  [ "$module" != nvme-core.ko ] || parameters=multipath=N
  # shellcheck disable=SC2086 # none or one
  /bin/busybox insmod "/modules/$module" $parameters || { echo "testbed: the kernel does not take the module $module"; exit 1; }
done
/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,access=any host /root
/bin/busybox umount /proc
exec /bin/busybox switch_root /root "$testbed_folder/guest.sh"

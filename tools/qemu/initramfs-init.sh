#!/bin/busybox sh
# The guest's first program: loads what the two images need, mounts them, and goes on in them. The kernel's console shows what it says;
# when it ends, the kernel panics, and the machine with it.
set -e
/bin/busybox mkdir -p /proc /dev /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs devtmpfs /dev
for module in $(/bin/busybox cat /modules.order); do
  /bin/busybox insmod "/modules/$module" || { echo "cairn: the kernel does not take the module $module"; exit 1; }
done
/bin/busybox mount -t erofs -o ro /dev/vda /root
/bin/busybox mount -t erofs -o ro /dev/vdb /root/opt/cairn
/bin/busybox umount /proc
exec /bin/busybox switch_root /root /opt/cairn/guest-init.sh

"""What every machine of ours in QEMU is made from: Debian's packages, unpacked, and a first root for the kernel."""

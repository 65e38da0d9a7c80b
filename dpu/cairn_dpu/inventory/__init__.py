"""What the service's own machine has to offer: RDMA devices with their ports, addresses and limits, and NVMe namespaces.

Facts without a judgement; the checklist that judges a machine is `cairn doctor --hardware`, which comes with the client and runs
here as well where that is installed. Nothing is changed, no block of a drive is read, and a drive in use may be asked.
"""

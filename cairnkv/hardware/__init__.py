"""The checklist of `cairn doctor --hardware`: what must be right on a machine before Cairn meets a card, a drive or a GPU.

checklist.py decides what is asked, in which order; each of the others knows one kind of part. They read sysfs and procfs below
a root (machine.py), so that tests give them a small tree; only verbs.py and cuda.py ask a library, and qos.py a program;
they say so when there is none. Nothing here changes anything, and nothing needs more than the standard library.
"""

"""The sub-commands of `cairn`, one file for each kind."""

"""`python -m cairn_dpu`: the same as the command `cairn-dpu`."""

from cairn_dpu.cli import main

main()

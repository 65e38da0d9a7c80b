"""`python -m cairnkv` is the command `cairn`."""

from cairnkv.cli import main

if __name__ == "__main__":
    main()

"""What an answer may tell of a path: no more than its caller could find out alone."""

import os
import stat
from pathlib import Path


def everybody_sees(path: str) -> bool:
    """Whether every user of this machine can tell what lies at the path: all folders on the way let everybody look."""
    try:
        for way in (Path(os.path.abspath(path)), Path(os.path.realpath(path))):
            for folder in reversed(way.parents):
                try:
                    mode = folder.stat().st_mode
                except (FileNotFoundError, NotADirectoryError):
                    break  # everybody sees that it is not there
                if stat.S_ISDIR(mode) and not mode & stat.S_IXOTH:
                    return False
    except (OSError, ValueError):
        return False
    return True

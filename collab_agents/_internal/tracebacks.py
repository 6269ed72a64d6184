"""An exception's traceback: the line of the user's own code, or all of it for debugging."""

import os
import sysconfig
import traceback
from pathlib import Path

from collab_agents._internal.secrets import mask
from collab_agents._internal.text import harmless

_NOT_OWN = ("<", *(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")))


def own_line(error: BaseException) -> str:
    """Return the last line outside this library and installed packages, such as "judges.py:12", or ""."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        file = frame.f_code.co_filename
        this_library = str(frame.f_globals.get("__name__")).split(".")[0] == "collab_agents"
        if not (this_library or file.startswith(_NOT_OWN) or "site-packages" in file or "dist-packages" in file):
            return f"{_short(file)}:{line}"
    return ""


def _short(file: str) -> str:
    """Return the path relative to the current folder if it is inside, else the file's name, which is safe to share."""
    try:
        path, here = Path(os.path.abspath(file)), Path.cwd()
    except OSError:  # The current folder is gone.
        return Path(file).name
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name


def printed(error: BaseException) -> str:
    """Return the traceback with all causes, as Python prints it, without keys and control characters."""
    return harmless(mask("".join(traceback.format_exception(error)))).rstrip()

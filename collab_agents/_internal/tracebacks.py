"""What an exception's traceback tells the user: the line of their own code, and all of it for those who debug."""

import os
import sysconfig
import traceback
from pathlib import Path

from collab_agents._internal.secrets import mask
from collab_agents._internal.text import harmless

_NOT_OWN = ("<", *(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")))


def own_line(error: BaseException) -> str:
    """The last line that ran outside of this library and of installed packages, "judges.py:12"; empty if none did."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        file = frame.f_code.co_filename
        this_library = str(frame.f_globals.get("__name__")).split(".")[0] == "collab_agents"
        if not (this_library or file.startswith(_NOT_OWN) or "site-packages" in file or "dist-packages" in file):
            return f"{_short(file)}:{line}"
    return ""


def _short(file: str) -> str:
    """Relative to the current folder where it is inside, else its name: reasons are kept in files that are shared."""
    try:
        path, here = Path(os.path.abspath(file)), Path.cwd()
    except OSError:  # The current folder is gone.
        return Path(file).name
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name


def printed(error: BaseException) -> str:
    """Its traceback with all causes, as Python prints it, without keys and control characters."""
    return harmless(mask("".join(traceback.format_exception(error)))).rstrip()

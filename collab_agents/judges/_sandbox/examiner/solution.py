"""The solution's process."""

import builtins
import os
import sys
import types
from pathlib import Path
from typing import Any

from .reports import describe
from .wire import Gone, Peer


def serve(peer: Peer) -> None:
    """Run the solution that comes first, and then answer calls of what it defines, as long as anybody asks."""
    module = create_module()

    def answer(question: dict[str, Any]) -> None:
        if "solution" in question:
            peer.reply(question, lambda: run(question["solution"], module))
        else:
            peer.reply(question, lambda: vars(module)[question["name"]])

    try:
        peer.serve(answer)
    except Gone:
        return


def create_module() -> types.ModuleType:
    """The module that the solution is, in a folder of its own, which it may write to."""
    os.mkdir("work")
    os.chdir("work")
    module = types.ModuleType("solution")
    module.__file__ = str(Path("solution.py").absolute())
    # "__test__" is what BigCodeBench's own runner calls it.
    sys.modules["solution"] = sys.modules["__test__"] = module
    sys.path.append(os.getcwd())  # Last: no file in it is to be taken for a library.
    sys.argv = ["solution.py"]
    return module


def run(source: str, module: types.ModuleType) -> str:
    """What went wrong; empty if nothing did."""
    try:
        Path("solution.py").write_text(source, encoding="utf-8", errors="replace")
        exec(compile(source, "solution.py", "exec"), vars(module))
    except BaseException as error:  # SystemExit and KeyboardInterrupt are failures of the code like any other.
        return describe(error)
    return ""


def namespace(module: types.ModuleType, entry_point: str | None) -> dict[str, Any]:
    """What the solution defines, without what it names like a built-in."""
    hidden = set(dir(builtins)) - {entry_point}
    return {name: value for name, value in vars(module).items() if name not in hidden or name.startswith("__")}

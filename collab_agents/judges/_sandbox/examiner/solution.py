"""The process that runs the solution."""

import builtins
import os
import sys
import types
from pathlib import Path

from .reports import describe
from .wire import Gone, Message, Peer


def serve(peer: Peer) -> None:
    """Receive and run the solution, and then answer calls to its functions until the other side closes."""
    module = create_module()

    def answer(question: Message) -> None:
        if "solution" in question:
            peer.reply(question, lambda: run(question["solution"], module))
        else:
            peer.reply(question, lambda: vars(module)[question["name"]])

    try:
        peer.serve(answer)
    except Gone:
        return


def create_module() -> types.ModuleType:
    """Create the solution's module, in a writable folder of its own."""
    os.mkdir("work")
    os.chdir("work")
    module = types.ModuleType("solution")
    module.__file__ = str(Path("solution.py").absolute())
    # BigCodeBench's own runner names the module "__test__".
    sys.modules["solution"] = sys.modules["__test__"] = module
    sys.path.append(os.getcwd())  # Last, so that no file in it shadows a library.
    sys.argv = ["solution.py"]
    return module


def run(source: str, module: types.ModuleType) -> str:
    """Run the source in the module, and return what went wrong, or ""."""
    try:
        Path("solution.py").write_text(source, encoding="utf-8", errors="replace")
        exec(compile(source, "solution.py", "exec"), vars(module))
    except BaseException as error:  # SystemExit and KeyboardInterrupt are failures too.
        return describe(error)
    return ""


def namespace(module: types.ModuleType, entry_point: str | None) -> dict[str, object]:
    """Return the names that the solution defines, except those that shadow built-ins."""
    hidden = set(dir(builtins)) - {entry_point}
    return {name: value for name, value in vars(module).items() if name not in hidden or name.startswith("__")}

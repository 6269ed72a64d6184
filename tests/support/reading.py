"""What tests read off messages and reasons."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.messages import BaseMessage


def texts(messages: Sequence[BaseMessage]) -> list[str]:
    return [str(message.content) for message in messages]


def line_in(function: Any, number: int) -> str:
    """Where the function's line of that number is, from 0, as reasons name it."""
    code = function.__code__
    return f"{Path(code.co_filename).relative_to(Path.cwd())}:{code.co_firstlineno + number}"

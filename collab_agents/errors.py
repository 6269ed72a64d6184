"""The errors that this library raises. Their text is one sentence that a user can act on.

Errors raised during a run also subclass a built-in type: a LangGraph server hides the text of all others from its
clients.
"""


class CollabError(Exception):
    """The base class of this library's errors."""


class ConfigError(CollabError, ValueError):
    """Bad input. The message names the field, the value, and what would be right."""


class ModelError(CollabError, RuntimeError):
    """A chat model could not be called: unreachable, refused, or still failing after its retries."""


class UnusableReply(CollabError, RuntimeError):
    """A model gave no usable answer within its retries."""


class RolloutError(CollabError, RuntimeError):
    """A conversation cannot continue: a participant failed, or no candidate of a turn could be scored."""


class LimitReached(CollabError, RuntimeError):
    """A run has spent what it may, and leaves tasks unplayed."""


class RunDirectoryError(CollabError):
    """A run directory cannot be used: in use by another process, or made with other settings."""


class WorkersError(CollabError, RuntimeError):
    """The worker processes of a run cannot be started, or are all gone."""


class Exited(BaseException):
    """Stands in for a branch's SystemExit, which would end every other branch too.

    reason: what was called, and where. place: the LangGraph task in which it was called, "node:id|inner node:id".
    """

    def __init__(self, reason: str, place: str) -> None:
        super().__init__(reason)
        self.place = place

"""The errors this library raises on purpose. Their text is one sentence that a user can act on."""


class CollabError(Exception):
    """Base of every error below."""


class ConfigError(CollabError, ValueError):
    """Bad input: the message names the field, the value and what would be right."""


class ModelError(CollabError):
    """A chat model could not be called: unreachable, refused, or still failing after its retries."""


class UnusableReply(CollabError):
    """A model answered, within its retries, nothing that fits what was asked for."""


class RolloutError(CollabError):
    """A conversation cannot go on: no candidate of a turn could be generated and scored."""


class RunDirectoryError(CollabError):
    """A run directory cannot be used: in use by another process, or made with other settings."""

"""Addresses of databases."""

from urllib.parse import parse_qsl, urlsplit

from collab_agents._internal.secrets import remember_secret
from collab_agents.errors import ConfigError

_PASSWORDS = ("password", "sslpassword")


def check_database(address: str) -> None:
    """Raise ConfigError if `checkpoints` is not the address of a PostgreSQL database, or has a password in it."""
    scheme, separator, _ = address.partition("://")
    if not separator or scheme not in ("postgresql", "postgres"):
        raise ConfigError(f"checkpoints must be an address like postgresql://user@host/database, got {address!r}")
    try:
        parts = urlsplit(address)
    except ValueError as error:  # For example, a bracket that is not closed.
        raise ConfigError(f"checkpoints: {address!r} is not an address: {error}") from error
    query = dict(parse_qsl(parts.query))
    if password := next(filter(None, [parts.password, *map(query.get, _PASSWORDS)]), None):
        remember_secret(password)
        raise ConfigError("checkpoints has a password in it: give it in PGPASSWORD, PGPASSFILE or ~/.pgpass instead")

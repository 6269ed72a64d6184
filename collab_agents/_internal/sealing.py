"""Sign bytes that are stored where others can write, such as a run's checkpoints, so that changes are detected."""

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from functools import cache
from pathlib import Path

KEY_VARIABLE = "COLLAB_AGENTS_KEY"


def load_key() -> bytes:
    """Return this process's key. It is read once, so that sealing does not read files."""
    given = os.environ.get(KEY_VARIABLE)
    return hashlib.sha256(given.encode()).digest() if given else _users_own()


def seal_of(data: bytes) -> str:
    """Return the HMAC-SHA256 of the bytes with this process's key, as hexadecimal digits."""
    return hmac.digest(load_key(), data, "sha256").hex()


def is_sealed(data: bytes, seal: str) -> bool:
    return hmac.compare_digest(seal_of(data).encode(), seal.encode())


@cache
def _users_own() -> bytes:
    """Return the key in the user's folder, created on first use, or a temporary one if none can be kept there."""
    new = secrets.token_bytes(32)
    try:
        folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "collab-agents"
        file, draft = folder / "key", folder / f"key.{secrets.token_hex(8)}"
        folder.mkdir(parents=True, exist_ok=True)
        draft.touch(mode=0o600)
        draft.write_bytes(new)
        try:
            with suppress(FileExistsError):
                os.link(draft, file)  # In one step, so that the first process wins.
        finally:
            draft.unlink()
        kept = file.read_bytes()
    except (OSError, RuntimeError):  # RuntimeError: there is no home.
        return new
    return kept if len(kept) == len(new) else new

"""Tickets: secrets that we draw at random, hand out once, and keep only as a digest.

A cookie is one, an API token is one, and so is a password that nobody chose. They are too long to be guessed, so a
quick hash keeps them safe from whoever reads the database.
"""

from hashlib import sha256
from secrets import token_urlsafe

#: What an API token begins with, so that people and scanners of leaked secrets know what they see.
TOKEN = "hr_"  # noqa: S105 - the beginning of all of them
_BYTES = 32


def draw(prefix: str = "") -> str:
    """Draw a secret that nobody can guess."""
    return prefix + token_urlsafe(_BYTES)


def digest(secret: str) -> bytes:
    """Return what is kept of it."""
    return sha256(secret.encode(errors="replace")).digest()

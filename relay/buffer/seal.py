"""Seals what waits in Redis and may not stand there in the clear, under a key that only the settings hold."""

from __future__ import annotations

import secrets
from typing import Final

from relay.errors import SealBroken

_NONCE: Final = 12


class Seal:
    """AES-256-GCM.

    Args:
        key: any text; the key of the cipher is derived from it (HKDF-SHA256).
        use: what is sealed with it: keys for two uses have nothing in common.
        setting: which one the key is, for people.
    """

    def __init__(self, key: str, use: str, setting: str) -> None:
        # Few relays seal anything, and the library is large.
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        derived = HKDF(hashes.SHA256(), 32, salt=None, info=use.encode()).derive(key.encode())
        self._cipher, self._setting = AESGCM(derived), setting

    def close(self, plain: bytes, about: str) -> bytes:
        """Sealed bytes, which open only together with the same `about`."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, plain, about.encode())

    def open(self, sealed: bytes, about: str) -> bytes:
        """The reverse of `close`.

        Raises:
            SealBroken: under another key, or changed since.
        """
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], about.encode())
        except (InvalidTag, ValueError):
            raise SealBroken(f"sealed under another {self._setting}, or damaged") from None


def of_refused(key: str) -> Seal:
    """Of requests that were refused."""
    return Seal(key, "rowhook refused requests, 1", "refused_key")


def of_documents(key: str) -> Seal | None:
    """Of documents that wait; None without a key."""
    return Seal(key, "rowhook documents, 1", "redaction_key") if key else None

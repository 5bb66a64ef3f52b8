"""`DIR/demo.yaml`: a source of each kind with a generated secret, where there is no configuration.

A kind is loaded only to be written: in a folder that has them all, nothing is.
"""

from __future__ import annotations

import base64
import secrets
from pathlib import Path
from typing import Any, Final

import yaml

from relay.doctor import parts
from relay.errors import ConfigInvalid, RelayError
from relay.kinds import CUSTOM, kinds, vendor_of
from relay.signatures import AnyOf, Basic, Hmac, Verifier
from relay.source import Vendor
from relay.supervisor.place import write_private

_HEAD: Final = """\
# Written by `relay up`, which found no relay.yaml: a source of each kind of sender, with a secret made up here.
# It is kept from start to start, and kinds that are new are added. For real senders write a relay.yaml.
"""


def write(data_dir: Path) -> bool:
    """Write the file, or add the kinds that it does not have yet; True where anything was written.

    Raises:
        ConfigInvalid: the file is there and cannot be read as settings.
    """
    path = data_dir / "demo.yaml"
    have = _read(path)
    sources = have.get("sources") or {}
    known = {CUSTOM, *sources, *(str(s.get("kind")) for s in sources.values() if isinstance(s, dict))}
    made = {kind: source(kind, vendor_of(kind, {})) for kind in kinds() if kind not in known}
    new = {kind: block for kind, block in made.items() if block is not None}
    if not new and path.exists():
        return False
    write_private(path, _HEAD + yaml.safe_dump({**have, "sources": {**sources, **new}}, sort_keys=False))
    return True


def source(kind: str, vendor: Vendor) -> dict[str, Any] | None:
    """A source's block; None for a kind that cannot be verified before someone describes it."""
    # With a made-up token of its API each event would wait for an answer of the vendor's.
    tokens = {hydration.token for _, hydration in vendor.hydrations}
    generated = {name: secrets.token_hex(16) for name, s in vendor.settings.items() if s.secret}
    generated = {name: value for name, value in generated.items() if name not in tokens}
    defaults = {name: s.default for name, s in vendor.settings.items()}
    try:
        verifier = vendor.verifier({**defaults, **generated})
        return {"kind": kind, "secrets": [_secret(verifier, vendor.secret_like)], **generated}
    except (RelayError, LookupError, TypeError, ValueError, AttributeError):
        return None


def _secret(verifier: Verifier, prefix: str) -> str:
    """A random secret of the form that the vendor gives out."""
    own = getattr(verifier, "test_secret", None)
    if own is not None:
        return str(own(secrets.randbits(128)))
    if isinstance(verifier, AnyOf):
        return _secret(verifier.choices[0], prefix)
    if isinstance(verifier, Basic):
        return f"rowhook:{secrets.token_hex(24)}"
    key = next((part.key for part in parts(verifier) if isinstance(part, Hmac)), "utf8")
    if key == "whsec" or prefix == "whsec_":
        # Those that sign by Standard Webhooks read base64 behind the prefix; to the others it is text.
        return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
    if key == "base64":
        return prefix + base64.b64encode(secrets.token_bytes(32)).decode()
    return prefix + secrets.token_hex(32)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        have = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{path}: cannot be read: {error}; mend it, or delete it for a new one") from None
    if not isinstance(have, dict) or not isinstance(have.get("sources") or {}, dict):
        raise ConfigInvalid(f"{path}: sources: is not a mapping; mend the file, or delete it for a new one")
    return have

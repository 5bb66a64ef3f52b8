"""Settings of alerts: who is told over HTTP what needs a person, how soon, and how often again."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Final, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

_PREFIX: Final = "whsec_"
#: Bytes of a signing secret, by the specification.
_LEAST_BYTES, _MOST_BYTES = 24, 64
#: Shorter parts of a URL are words, not secrets.
_TELLING_CHARS: Final = 6


class Receiver(BaseModel):
    """One receiver of alerts."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: SecretStr = Field(description="Where alerts are posted. It counts as a secret: only its host is shown.")
    format: Literal["slack", "standard"] = Field(
        description="`slack`: a message for Slack's incoming webhooks, and for what takes the same. `standard`: "
        "a JSON event, signed as Standard Webhooks has it."
    )
    secret: SecretStr = Field(
        SecretStr(""),
        description="Signing secret of `standard`: `whsec_` and 24 to 64 random bytes in base64.",
    )
    proxy: SecretStr | None = Field(
        None, description="URL of an HTTP proxy to go through; the environment's are not used."
    )

    @field_validator("url")
    @classmethod
    def _address(cls, url: SecretStr) -> SecretStr:
        parts = urlsplit(url.get_secret_value())
        try:
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or not url.get_secret_value().isascii() or re.search(r"[\x00-\x20]", url.get_secret_value()):
            raise ValueError("must be http(s)://host, with a path where needed")
        return url

    @model_validator(mode="after")
    def _signed_or_not(self) -> Self:
        if self.format == "slack" and self.secret.get_secret_value():
            raise ValueError("format slack signs nothing: leave `secret` out")
        if self.format == "standard" and self.key is None:
            raise ValueError(
                "format standard needs a `secret`: whsec_ and the base64 of 24 to 64 random bytes, such as "
                "whsec_$(openssl rand -base64 32)"
            )
        return self

    @property
    def host(self) -> str:
        """What may be shown of its address."""
        parts = urlsplit(self.url.get_secret_value())
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    @property
    def key(self) -> bytes | None:
        """The signing key; None where the secret is none."""
        try:
            key = base64.b64decode(self.secret.get_secret_value().removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            return None
        return key if _LEAST_BYTES <= len(key) <= _MOST_BYTES else None

    @property
    def id(self) -> str:
        """Stands for it where the address must not be written."""
        whole = f"{self.format} {self.url.get_secret_value()}"
        return hashlib.blake2b(whole.encode(), digest_size=8).hexdigest()

    def hidden(self) -> list[str]:
        """What no line may repeat, the longest first."""
        url = self.url.get_secret_value()
        parts = urlsplit(url)
        pieces = re.split(r"[/?&=;,]", f"{parts.path}?{parts.query}#{parts.fragment}")
        proxy = urlsplit(self.proxy.get_secret_value() if self.proxy is not None else "")
        secrets = [parts.username or "", parts.password or "", self.secret.get_secret_value()]
        secrets += [proxy.username or "", proxy.password or ""]
        secrets += [piece for piece in pieces if len(piece) >= _TELLING_CHARS]
        secrets += [url, parts.path.strip("/"), parts.query, self.secret.get_secret_value().removeprefix(_PREFIX)]
        return sorted({s for one in secrets for s in (one, unquote(one)) if s}, key=len, reverse=True)


class AlertSettings(BaseModel):
    """The part of the settings that is about alerts."""

    alerts: tuple[Receiver, ...] = Field(
        (), max_length=16, description="Who is told what needs a person: a list of `url`, `format`, `secret`."
    )
    alert_after_s: int = Field(
        300, ge=0, le=86_400, description="How long something must stand, or be over, before alerts say so."
    )
    alert_repeat_hours: int = Field(
        12, ge=0, le=24 * 30, description="After so many hours what still stands is said again; 0: never."
    )

"""Settings of what others read from the relay: the folder of exports, saved queries, proxies that are believed."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

GIB: Final = 1024**3
#: How a statement begins that only reads, after comments; what else it may not, its destination refuses.
_READS: Final = re.compile(
    r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(?:select|with|values|table)\b", re.IGNORECASE | re.DOTALL
)


class SavedQuery(BaseModel):
    """One figure or chart: a query that the relay's owner wrote down."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sql: str = Field(min_length=1, description="One SELECT, run read-only at the destination.")
    destination: str = Field("", description="Where it is run; default: the only one.")
    owner: str = Field("", description="E-mail address that is shown as its owner's.")
    presentation: str = Field("table", description="What is shown as its presentation type.")

    @field_validator("sql")
    @classmethod
    def _reads(cls, value: str) -> str:
        if not _READS.match(value):
            raise ValueError("a saved query only reads: write one SELECT")
        return value


class ServedSettings(BaseModel):
    """The part of the settings that is about reading."""

    files: str = Field(
        "files",
        min_length=1,
        description="Folder of finished exports; a relative path lies under the data folder. Where web and worker "
        "run in containers of their own, it must be a volume that both have.",
    )
    files_max_bytes: int = Field(
        10 * GIB, ge=1024 * 1024, description="Bytes of that folder, over which an export ends in an error."
    )
    export_max_rows: int = Field(10_000_000, ge=1, description="Rows of one raw export; the rest is left out.")
    figures: dict[str, SavedQuery] = Field({}, description="Saved queries of the export API's /figure, by name.")
    charts: dict[str, SavedQuery] = Field({}, description="Saved queries of the export API's /chart, by name.")
    figure_seconds: float = Field(6.0, gt=0, le=7, description="For how long a saved query may run.")
    trusted_proxies: tuple[str, ...] = Field(
        (), description="Addresses and networks of proxies that are believed what X-Forwarded-For says."
    )

    console_user_header: str = Field(
        "",
        pattern="^([A-Za-z][A-Za-z0-9-]{0,63})?$",
        description="Header in which one of `trusted_proxies` names the console's user, such as X-Forwarded-User; "
        "from elsewhere it is ignored. The proxy must remove it from what others send. Empty: passwords alone.",
    )
    console_password_login: bool = Field(
        default=True, description="Console users may log in with a password; false: only `console_user_header`."
    )

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network)
        return value

    def saved(self, kind: str) -> dict[str, SavedQuery]:
        """Saved queries of a kind: `figure` or `chart`."""
        return self.charts if kind == "chart" else self.figures


def check(settings: ServedSettings, known: Collection[str], fault: Callable[[str, str], Exception]) -> None:
    """See that each saved query knows where it is run, and that users, and they alone, get into the console.

    Args:
        settings: these.
        known: the destinations.
        fault: words an error, from a setting and a message.
    """
    _check_console(settings, fault)
    for block, saved in (("figures", settings.figures), ("charts", settings.charts)):
        for name, query in saved.items():
            at = f"{block}.{name}.destination"
            if query.destination and query.destination not in known:
                raise fault(at, f"there is no destination {query.destination!r}; known: {', '.join(known)}")
            if not query.destination and len(known) != 1:
                raise fault(at, f"say which of the destinations: {', '.join(known)}")


def _check_console(settings: ServedSettings, fault: Callable[[str, str], Exception]) -> None:
    if not settings.console_user_header:
        if not settings.console_password_login:
            raise fault("console_password_login", "nobody could get in: set console_user_header")
        return
    if not settings.trusted_proxies:
        raise fault("console_user_header", "nobody would be believed: set trusted_proxies")
    if any(ipaddress.ip_network(network).prefixlen == 0 for network in settings.trusted_proxies):
        raise fault("console_user_header", "with all addresses in trusted_proxies anybody could be any user")

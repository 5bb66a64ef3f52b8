"""The connection: opened when needed, words for its statements, and its errors by consequence.

https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import conninfo
from psycopg.sql import quote
from pydantic import Field, SecretStr

from relay.errors import DeliveryError, Permanent, Refused, Transient
from worker.columns.layout import quoted
from worker.destination import Settings

# A dead network is noticed even where the server never answers again (libpq's parameters).
_NETWORK: Final = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3}

# SQLSTATE classes by consequence; what is in neither is Permanent.
_REFUSED: Final = ("28", "42501", "3D000")
_TRANSIENT: Final = ("08", "25006", "40", "53", "55", "57", "58", "XX")
#: Before a session exists libpq has only words; the server's are in English until it knows better.
_REFUSED_WORDS: Final = (
    "password",
    "authentication",
    "does not exist",
    "pg_hba.conf",
    "permission denied",
    "not permitted",
)


class PostgresSettings(Settings):
    """The block of a PostgreSQL destination."""

    dsn: SecretStr = Field(description="Where to connect: a libpq URL or `key=value` string, password included.")
    schema_name: str = Field(
        "public", alias="schema", description="Schema of the tables; made where it is absent."
    )
    connect_timeout_s: int = Field(10, ge=2, description="Seconds to wait for a connection.")
    statement_timeout_s: float = Field(
        60, gt=0, description="Seconds after which the server gives up a statement."
    )


class Session:
    """One connection, kept between batches without anything in it that a pooler would lose."""

    def __init__(self, settings: PostgresSettings) -> None:
        self.settings, self.schema, self.committing = settings, settings.schema_name, False
        self._rehearsing = False
        self._connection: psycopg.Connection[Any] | None = None

    def at(self, name: str) -> str:
        """A table's name in our schema."""
        return f"{quoted(self.schema)}.{quoted(name)}"

    def quote(self, value: Any) -> str:
        """A value as an SQL literal."""
        return quote(value, self.open())

    def lock_of(self, what: str) -> str:
        """The number of an advisory lock of our schema, as SQL."""
        return f"hashtextextended({self.quote(f'rowhook {self.schema} {what}')}, 0)"

    def run(self, statements: str) -> psycopg.Cursor[Any]:
        """Run statements that have no parameters."""
        # Bytes without parameters: one round trip, several statements, and `%` means nothing.
        return self.open().execute(statements.encode())

    def open(self) -> psycopg.Connection[Any]:
        """The connection, made where there is none."""
        if self._connection is None:
            given = conninfo.conninfo_to_dict(self.settings.dsn.get_secret_value())
            defaults = {
                "connect_timeout": self.settings.connect_timeout_s,
                "application_name": "rowhook",
                **_NETWORK,
            }
            options: dict[str, Any] = {**defaults, **given, "client_encoding": "UTF8"}
            self._connection = psycopg.connect(**options, autocommit=True, prepare_threshold=None)
        return self._connection

    def rollback(self) -> None:
        """Back to a usable connection, or none: the next call opens another."""
        try:
            if self._connection is not None:
                self._connection.rollback()
        except psycopg.Error:
            self.close()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Let nothing out but the three endings of the contract, with nothing left half done."""
        self.committing = False
        try:
            yield
        except psycopg.Error as error:
            self.rollback()
            raise self._consequence(error) from None
        except DeliveryError:
            self.rollback()
            raise
        except BaseException:  # a time-out's signal can strike anywhere: this session's state is unknown
            self.close()
            raise

    def _consequence(self, error: psycopg.Error) -> DeliveryError:
        state, words = error.sqlstate or "", self._words(error)
        if not state and isinstance(error, psycopg.ProgrammingError):
            return Refused("the dsn cannot be read: it must be a libpq URL or key=value string", reason="dsn")
        unopened = self._connection is None and any(word in words for word in _REFUSED_WORDS)
        if state.startswith(_REFUSED) or (not state and unopened):
            return Refused(words)
        if isinstance(error, psycopg.InterfaceError | psycopg.OperationalError) and not state:
            return Transient(words, reason="connection", unknown=self.committing)
        if state.startswith(_TRANSIENT):
            return Transient(words, reason="server", unknown=self.committing and not state.startswith("40"))
        return Permanent(words)

    def _words(self, error: psycopg.Error) -> str:
        """The server's own words; details stay behind, they may quote data."""
        words = error.diag.message_primary or " ".join(str(error).split())
        try:
            password = conninfo.conninfo_to_dict(self.settings.dsn.get_secret_value()).get("password")
        except psycopg.Error:
            return words
        return words.replace(str(password), "***") if password else words

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """One transaction around all that is begun and committed inside, rolled back at its end.

        It waits for nobody's lock for long: others wait behind it then.
        """
        self.run(f"{self.opening()} SET LOCAL lock_timeout = '5s'; SET LOCAL TIME ZONE 'UTC'")
        self._rehearsing = True
        try:
            yield
        finally:
            self._rehearsing = False
            self.rollback()

    def commit(self) -> None:
        """End a transaction; in a rehearsal it goes on."""
        if not self._rehearsing:
            self.run("COMMIT")

    def opening(self) -> str:
        """How a transaction begins: nothing of it outlives the transaction."""
        if self._rehearsing:
            return ""
        return (
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = on; "
            f"SET LOCAL statement_timeout = {int(self.settings.statement_timeout_s * 1000)};"
        )

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

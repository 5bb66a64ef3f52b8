"""The table of faults: one row of docs/explanation/guarantees.md each."""

from __future__ import annotations

from dataclasses import dataclass

from tests.chaos import machine, memory, serving, striking
from tests.chaos.striking import Strike
from tests.chaos.worlds import Clocks, Disk, Kernel


@dataclass(frozen=True)
class Fault:
    """One way to break something.

    Args:
        strike: does it once. says: for people. in_flight: what was counted when it struck.
        own: what the relay must have of its own: `disk`, `clocks`, `kernel`, or `bus`, a proxy before
        its Redis.
        retries_dead: what was buried is retried at the end.
    """

    strike: Strike
    says: str
    in_flight: str = "events"
    own: str = ""
    retries_dead: bool = False

    def missing(self) -> str:
        """What this machine lacks for it, or nothing."""
        return {"disk": Disk.missing, "clocks": Clocks.missing, "kernel": Kernel.missing}.get(self.own, str)()


FAULTS: dict[str, Fault] = {
    "web_worker_sigkill": Fault(striking.web_worker, "SIGKILL of a gunicorn worker", "requests"),
    "web_master_sigkill": Fault(striking.web_master, "SIGKILL of gunicorn's master", "requests"),
    "horse_sigkill": Fault(striking.horse, "SIGKILL of an RQ horse in mid-batch"),
    "parent_sigkill": Fault(striking.parent, "SIGKILL of an RQ worker; its horse lives on"),
    "horse_and_parent_sigkill": Fault(striking.horse_and_parent, "SIGKILL of an RQ worker and its horse"),
    "worker_part_sigkill": Fault(striking.worker_part, "SIGKILL of `python -m worker`"),
    "supervisor_sigkill": Fault(striking.supervisor, "SIGKILL of `relay up`, started again"),
    "death_before_settle": Fault(
        striking.after_commit, "SIGKILL between a destination's commit and the settle (PostgreSQL, Import API)"
    ),
    "valkey_sigkill": Fault(striking.valkey_sigkill, "SIGKILL of Valkey, restart on its AOF", "requests"),
    "valkey_stall": Fault(striking.valkey_stall, "Valkey stands still for 10 s", "requests"),
    "valkey_cut": Fault(striking.valkey_cut, "every connection to Valkey is cut", "requests", own="bus"),
    "valkey_disk_full": Fault(
        machine.valkey_disk_full, "the disk of Valkey's append-only file is full for 3 s", "requests", own="disk"
    ),
    "clock_steps": Fault(
        machine.clock_steps,
        "the wall clocks of Valkey and of the Python processes step, alone and together, forward and back, "
        "by seconds, minutes, hours, two days",
        own="clocks",
    ),
    "oom_killer": Fault(
        memory.oom_killer,
        "out of memory: the OOM killer of a kernel of its own (User-Mode Linux, which is slow) ends a gunicorn "
        "worker, Valkey, an RQ horse, an RQ worker, in turn",
        "requests or events",
        own="kernel",
    ),
    "largest_sigkill": Fault(
        machine.largest, "SIGKILL of one of the four largest processes, as an OOM killer would choose"
    ),
    "postgres_restart": Fault(serving.postgres_restart, "PostgreSQL restarted, by turns in order and as a crash"),
    "postgres_deadlock": Fault(serving.postgres_deadlock, "PostgreSQL ends the transaction for a deadlock"),
    "postgres_refusing": Fault(serving.postgres_refusing, "PostgreSQL takes no connections for 2 s"),
    "postgres_out_of_connections": Fault(
        serving.postgres_out_of_connections, "no connection is left at PostgreSQL for 2 s"
    ),
    "import_500": Fault(serving.import_500, "Import API: 500", "rows"),
    "import_503": Fault(serving.import_503, "Import API: 503 with Retry-After", "rows"),
    "import_429": Fault(serving.import_429, "Import API: 429 with Retry-After", "rows"),
    "import_400": Fault(
        serving.import_400,
        "Import API: 400 for one record (buried, and retried at the end)",
        "rows",
        retries_dead=True,
    ),
    "import_400_all": Fault(
        serving.import_400_all, "Import API: 400 for everything for 3 s; nothing is buried", "rows"
    ),
    "import_401": Fault(serving.import_401, "Import API: 401", "rows"),
    "import_slow": Fault(serving.import_slow, "Import API: answers slowly", "rows"),
    "import_never": Fault(serving.import_never, "Import API: never answers, having stored or not", "rows"),
    "import_half": Fault(serving.import_half, "Import API: half an answer", "rows"),
    "import_commit_then_drop": Fault(
        serving.import_commit_then_drop, "Import API: stores, and drops the connection", "rows"
    ),
    "import_late_commit": Fault(
        serving.import_late_commit, "Import API: drops the connection, and stores up to 1.5 s later", "rows"
    ),
}  # fmt: skip

"""What a relay can be given of its own, so that it can be taken away: a small disk, Valkey's clock."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

#: Enough for the append-only file of the longest run, and soon filled.
_DISK_BYTES = 128 * 1024 * 1024
#: Where Debian's package `libfaketime` puts the library, and where distributions with one `lib` do.
_FAKE_CLOCKS = (
    *Path("/usr/lib").glob("*-linux-gnu/faketime/libfaketimeMT.so.1"),
    Path("/usr/lib/faketime/libfaketimeMT.so.1"),
    Path("/usr/lib64/faketime/libfaketimeMT.so.1"),
)


class Disk:
    """A small one of its own for the data of the embedded Valkey: a tmpfs that only the relay's processes see."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def missing() -> str:
        """Why there can be none here, or nothing."""
        with tempfile.TemporaryDirectory() as folder:
            tried = subprocess.run(
                [*Disk(Path(folder)).command(), "true"], capture_output=True, text=True, check=False
            )
        return f"a mount namespace of its own ({tried.stderr.strip()})" if tried.returncode else ""

    def command(self) -> list[str]:
        """What stands before a command that is to have it."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        alone = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
        mount = f'mount -t tmpfs -o size={_DISK_BYTES},mode=700 tmpfs "$0" && exec "$@"'
        return [*alone, "sh", "-c", mount, str(self.folder)]

    @contextlib.contextmanager
    def full(self, process: int) -> Iterator[None]:
        """Not a byte is left on it, as one of the relay's processes sees it."""
        filler = Path(f"/proc/{process}/root{self.folder.resolve()}/filler")
        with filler.open("wb", buffering=0) as file:
            for piece in (1024 * 1024, 4096, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(piece)):
                        pass
        try:
            yield
        finally:
            filler.unlink()


class Clock:
    """A wall clock that can be set while processes run by it.

    Only Valkey does: its clock orders, leases and tells what is due. Under libfaketime 0.9.10 Python cannot sleep.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.set(0)

    @staticmethod
    def missing() -> str:
        """Why it cannot be had here, or nothing."""
        there = any(path.exists() for path in _FAKE_CLOCKS)
        return "" if there else "libfaketime (Debian: apt-get install libfaketime)"

    @property
    def env(self) -> dict[str, str]:
        """The environment of processes that have it."""
        return {
            "LD_PRELOAD": str(next(path for path in _FAKE_CLOCKS if path.exists())),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        """It is off by so much from now on."""
        beside = self._file.with_suffix(".new")
        beside.write_text(f"{seconds:+d}\n")
        beside.replace(self._file)

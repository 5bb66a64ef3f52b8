"""What a relay can be given of its own, so that it can be tampered with: a small disk, wall clocks, a kernel."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

#: Enough for the append-only file of the longest run, and soon filled.
_DISK_BYTES = 128 * 1024 * 1024
_NS = 1_000_000_000
#: LINUX_REBOOT_CMD_POWER_OFF of reboot(2).
_POWER_OFF = 0x4321FEDC
#: Of a process in the file of offsets.
_PLACE = struct.Struct("=q")


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


class Clocks:
    """A wall clock for each of the relay's processes that can be set while it runs (see wall.c).

    Nothing else is changed for them: they sleep and wait as long as ever, as where a machine's clock is set. Under
    libfaketime 0.9.10 Python cannot sleep.
    """

    def __init__(self, folder: Path) -> None:
        self._library, self._offsets = folder / "wall.so", folder / "offsets"
        source = Path(__file__).with_name("wall.c")
        made = ["cc", "-O2", "-shared", "-fPIC", "-o", str(self._library), str(source), "-ldl", "-lpthread"]
        subprocess.run(made, check=True)
        most = int(Path("/proc/sys/kernel/pid_max").read_text())
        self._offsets.touch()
        os.truncate(self._offsets, (most + 1) * _PLACE.size)

    @staticmethod
    def missing() -> str:
        """Why they cannot be had here, or nothing."""
        return "" if shutil.which("cc") else "a C compiler (Debian: apt-get install gcc libc6-dev)"

    @property
    def env(self) -> dict[str, str]:
        """The environment of processes that have them."""
        return {"LD_PRELOAD": str(self._library), "WALL_OFFSETS": str(self._offsets)}

    def set(self, process: int, seconds: float) -> None:
        """One process's is off by so much from now on, and those of the children that it has afterwards."""
        maps = Path(f"/proc/{process}/maps").read_text()
        # What has just ended has none.
        assert str(self._library) in maps or not maps, f"the clock of process {process} cannot be set"
        with self._offsets.open("r+b", buffering=0) as file:
            file.seek(process * _PLACE.size)
            file.write(_PLACE.pack(int(seconds * _NS)))


class Kernel:
    """One that may run out of memory: User-Mode Linux, a plain process here, with the files of this machine."""

    #: The suite needs some 500 MB; all the rest must be used up at each strike.
    MEMORY = "1000M"
    _NAME = "linux.uml"

    @staticmethod
    def missing() -> str:
        """Why there can be none here, or nothing."""
        there = shutil.which(Kernel._NAME)
        return "" if there else "a kernel of its own (Debian: apt-get install user-mode-linux)"

    @staticmethod
    def inside() -> bool:
        """Whether this is it."""
        return "User Mode Linux" in Path("/proc/cpuinfo").read_text()

    @staticmethod
    def python(*args: str) -> str:
        """What a Python of this environment said within it; the console's words go to standard error."""
        here, script = Path(__file__).parents[2], Path(__file__).with_name("guest.sh")
        with tempfile.TemporaryDirectory(prefix="guest") as folder:
            out = Path(folder)
            needed = sorted({str(here), sys.prefix, sys.base_prefix} - {"/usr"})
            out.joinpath("folders").write_text("".join(f"{one}\n" for one in needed))
            out.joinpath("command").write_text(
                "export HOME=/tmp PATH=/usr/sbin:/usr/bin PYTHONDONTWRITEBYTECODE=1\n"
                # Nothing of the suite is for the OOM killer; what is, says so itself.
                "echo -1000 >/proc/self/oom_score_adj\n"
                f"cd {shlex.quote(str(here))}\n"
                f"{shlex.join([sys.executable, *args])} >/out/said\n"
                "sync\n"
                f"exec {shlex.quote(sys.executable)} -c 'import ctypes; ctypes.CDLL(None).reboot({_POWER_OFF})'\n"
            )
            machine = [Kernel._NAME, f"mem={Kernel.MEMORY}", "con=null", "con0=null,fd:1", f"uml_dir={out}"]
            root = ["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"]
            ended = subprocess.run(
                [*machine, *root, f"init={script}", f"OUT={out}"],
                stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False,
            )  # fmt: skip
            said = out.joinpath("said").read_text() if out.joinpath("said").exists() else ""
            if not said:
                raise RuntimeError(f"nothing came of {Kernel._NAME} (exit {ended.returncode}): see above")
            return said

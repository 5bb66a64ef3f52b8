# ruff: noqa: INP001, UP036 - a script that is run by itself, also by a Python that is too old
"""Makes `.venv` and installs exactly what a lock names; standard library only, for `make`.

Usage: python3 deploy/install.py LOCK

`requirements-browser.lock` comes on top of `requirements-test.lock`, in the same `.venv`.
`requirements-clients.lock` goes into `.venv-clients`: the clients of others that tests run need older libraries.

Repeats nothing that is already there. What a machine lacks is said in one sentence.
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed"
FAST = "requirements-fast.lock"
CLIENTS = "requirements-clients.lock"
CLIENTS_VENV = ROOT / ".venv-clients"
USE_2TO3 = ROOT / "tests" / "clients" / "use_2to3"
QUIET = ("--quiet", "--disable-pip-version-check", "--no-input")


def fail(sentence: str) -> None:
    """Say what is missing, and end."""
    sys.exit(f"rowhook: {sentence}")


def check_platform() -> None:
    """One sentence where this machine cannot run the embedded servers."""
    if sys.version_info < (3, 11):
        fail(f"Python 3.11 or newer is needed, this is {platform.python_version()}: make PYTHON=python3.12 …")
    if sys.platform == "win32":
        fail("Windows has no embedded Valkey: use WSL, or the container image.")
    if "musl" in (sysconfig.get_config_var("HOST_GNU_TYPE") or ""):
        fail("musl (Alpine) has no wheels of the embedded servers: use a glibc Linux, or the container image.")


def make_venv(folder: Path) -> list[str]:
    """An environment, and the pip command that installs into it."""
    python = folder / "bin" / "python"
    if importlib.util.find_spec("ensurepip") is not None:
        if not python.exists():
            venv.create(folder, with_pip=True, symlinks=True)
        return [str(python), "-m", "pip"]
    # Debian splits ensurepip off (python3-venv); its own pip can serve another environment.
    if importlib.util.find_spec("pip") is None:
        fail("this Python has neither ensurepip nor pip: on Debian, apt-get install python3-venv.")
    if not python.exists():
        venv.create(folder, with_pip=False, symlinks=True)
    return [sys.executable, "-m", "pip", "--python", str(python)]


def install_clients() -> None:
    """The clients of others that the tests run; those without wheels are built by the setuptools of their lock."""
    lock = (ROOT / CLIENTS).read_text()
    parts = (ROOT / CLIENTS, USE_2TO3 / "pyproject.toml", USE_2TO3 / "use_2to3.py")
    stamp, mark = CLIENTS_VENV / "installed", hashlib.sha256(b"".join(p.read_bytes() for p in parts)).hexdigest()
    if stamp.exists() and stamp.read_text() == mark:
        return
    pip = [*make_venv(CLIENTS_VENV), "install", *QUIET, "--no-deps"]
    print(f"installing {CLIENTS} into {CLIENTS_VENV.name} …", flush=True)  # noqa: T201 - progress of a script
    (builder,) = (part for part in re.split(r"\n(?=\w)", lock) if part.startswith("setuptools=="))
    unisolated = [*pip, "--no-build-isolation", "--use-pep517"]
    for command, told in (
        ([*pip, "--require-hashes", "-r", "/dev/stdin"], builder),
        ([*unisolated, str(USE_2TO3)], ""),
        ([*unisolated, "--require-hashes", "-r", CLIENTS], ""),
    ):
        run(command, told)
    stamp.write_text(mark)


def run(command: list[str], told: str = "") -> None:
    """Run pip, or end."""
    try:
        subprocess.run(command, check=True, cwd=ROOT, input=told.encode())  # noqa: S603
    except subprocess.CalledProcessError:
        fail("the installation failed; pip's words stand above. It needs the package index, once, and 300 MB.")


def main(lock: str) -> None:
    """Install the lock, then the project itself."""
    check_platform()
    if lock == CLIENTS:
        install_clients()
        return
    wanted = hashlib.sha256()
    for name in (lock, FAST, "pyproject.toml"):
        wanted.update((ROOT / name).read_bytes())
    wanted.update(str(ROOT).encode())
    mark = f"{lock} {wanted.hexdigest()}"
    if PYTHON.exists() and STAMP.exists() and mark in STAMP.read_text().splitlines():
        return
    pip = make_venv(VENV)
    print(f"installing {lock} into .venv …", flush=True)  # noqa: T201 - progress of a script
    for what in (["--require-hashes", "-r", lock], ["--no-deps", "--no-build-isolation", "-e", "."]):
        run([*pip, "install", *QUIET, *what])
    # Sources only: where there is no compiler, gunicorn parses HTTP in Python, which is slower and not wrong.
    fast = [*pip, "install", *QUIET, "--no-build-isolation", "--require-hashes", "-r", FAST]
    if subprocess.run(fast, check=False, capture_output=True, cwd=ROOT).returncode != 0:  # noqa: S603
        print("no C compiler: gunicorn will parse HTTP in Python (slower)", flush=True)  # noqa: T201
    known = STAMP.read_text().splitlines() if STAMP.exists() else []
    STAMP.write_text("\n".join([*(k for k in known if not k.startswith(f"{lock} ")), mark]) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])

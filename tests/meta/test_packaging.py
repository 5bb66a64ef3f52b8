"""What is not Python must be in the wheel; what one half names of the other must be there."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from rq.utils import import_attribute

from relay import dispatch
from worker import jobs

ROOT = Path(__file__).parents[2]


def test_the_job_that_relay_asks_for_by_name_is_the_workers_drain():
    assert import_attribute(dispatch.DRAIN) is jobs.drain


def test_the_delivering_half_never_loads_flask():
    code = "import sys, worker.jobs, worker.__main__; sys.exit('flask' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_scripts_and_types_are_in_the_wheel(tmp_path: Path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    subprocess.run([*command, "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    scripts = {str(p.relative_to(ROOT)) for p in ROOT.glob("relay/buffer/scripts/*.lua")}
    assert scripts
    assert scripts <= names
    assert {
        "relay/py.typed",
        "worker/py.typed",
        "relay/sources/shopify.py",
        "worker/destinations/sqlite/__init__.py",
    } <= names

"""What the documentation says of the code is made from the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from relay import catalogue
from relay.alerts import Receiver
from relay.config import Settings, SourceSettings
from relay.kinds import SOURCES
from tests.contracts import sources

ROOT = Path(__file__).parents[2]


def test_generated_pages_and_the_schema_are_fresh():
    command = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""


def test_every_setting_has_help():
    for model in (Settings, SourceSettings, Receiver):
        for name, field in model.model_fields.items():
            assert field.description, name


def test_the_readme_counts_the_kinds_as_they_are():
    text = " ".join((ROOT / "README.md").read_text("utf-8").split())
    files, proved = re.search(r"(\d+) kinds of vendors are files of their own, (\d+) of them", text).groups()
    found = [sources.vendor_of(kind) for kind in catalogue.names(SOURCES) if kind != "custom"]
    assert (int(files), int(proved)) == (len(found), sum(vendor.proved for vendor in found))

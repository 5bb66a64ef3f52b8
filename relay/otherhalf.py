"""Asks the half that has destinations and the archive: `python -m worker VERB`, in a process of its own."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from relay.config import Config
from relay.errors import ConfigInvalid
from relay.records import Codec, Packed


def ask_worker(config: Config, verb: str, *args: str) -> Any:
    """What needs a destination runs as the half that has them: `python -m worker VERB`, JSON on its output.

    Raises:
        ConfigInvalid: with the words of that half.
    """
    environment = worker_environment(config)
    command = [sys.executable, "-m", "worker", verb, *args]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise ConfigInvalid(done.stderr.strip() or f"python -m worker {verb} ended with {done.returncode}")
    return json.loads(done.stdout)


def stream_worker(config: Config, verb: str, *args: str, told: Iterable[bytes] | None = None) -> Iterator[Any]:
    """`ask_worker` for many answers: one JSON value a line, as they come.

    `told` are lines for its standard input; it must read them all before it answers. It ends with whoever reads.
    """
    command = [sys.executable, "-m", "worker", verb, *args]
    environment = worker_environment(config)
    given = subprocess.DEVNULL if told is None else subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=given, stdout=subprocess.PIPE) as asked:  # noqa: S603
        try:
            if asked.stdin is not None:
                # Where it ended early, its exit code says more than the broken pipe.
                with contextlib.suppress(BrokenPipeError), asked.stdin as stdin:
                    for line in told or ():
                        stdin.write(line + b"\n")
            for line in asked.stdout or ():
                yield json.loads(line)
        except BaseException:
            asked.kill()  # nobody reads on
            raise
    if asked.returncode != 0:
        raise ConfigInvalid(f"python -m worker {verb} ended with {asked.returncode}")


def worker_environment(config: Config) -> dict[str, str]:
    """The environment in which the other half finds the same settings."""
    environment = dict(os.environ)
    environment["RELAY_DATA"] = str(config.data_dir)
    if config.path is not None:
        environment["RELAY_CONFIG"] = str(config.path)
    return environment


def archived(config: Config, wanted: Mapping[str, Any]) -> Iterator[tuple[str, Packed]]:
    """Archived events that are meant, oldest first."""
    codec = Codec()
    for arrival, blob in archived_blobs(config, wanted):
        yield arrival, codec.unpack(blob)


def archived_blobs(config: Config, wanted: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """`archived`, still packed."""
    for line in stream_worker(config, "events", json.dumps(wanted)):
        yield line["arrival"], base64.b64decode(line["blob"])

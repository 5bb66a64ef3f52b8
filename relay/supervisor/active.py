"""The settings that the parts run under: a private copy of the last file that was found good.

Parts read the copy, not the file itself: otherwise a faulty edit, refused at SIGHUP, would still be read by the
next gunicorn worker that starts for whatever reason, and gunicorn ends altogether when a worker cannot load.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from relay.config import Config, load
from relay.configured import sources_of
from relay.errors import ConfigInvalid
from relay.supervisor.parts import Part
from relay.supervisor.place import write_private

_CHECK_S: Final = 30


class Active:
    """A configuration file and its copy.

    Args:
        source: the file that people edit, or None where everything stands in the environment.
        data_dir: DIR. name: of the copy, unique among the supervisors of a folder.
    """

    def __init__(self, source: Path | None, data_dir: Path, name: str) -> None:
        self.source, self.data_dir = source, data_dir
        self._copy = data_dir / "in-use" / f"{name}.yaml"

    @property
    def env(self) -> dict[str, str]:
        """What names the copy to a part."""
        return self._env(self._copy)

    def accept(self, parts: Iterable[Part] = ()) -> Config:
        """Check the file, and make it the one in use.

        Args:
            parts: their checks must pass as well.

        Raises:
            ConfigInvalid: it is faulty, and nothing was changed.
        """
        if self.source is None:
            config = load(None, self.data_dir)
            sources_of(config)
            self._check(parts, self._env(self._copy))
            return config
        candidate = self._copy.with_name(self._copy.name + ".candidate")
        try:
            self._copy.parent.mkdir(mode=0o700, exist_ok=True, parents=True)
            write_private(candidate, self.source.read_bytes())
            config = load(candidate, self.data_dir)
            sources_of(config)
            self._check(parts, self._env(candidate))
            candidate.replace(self._copy)
        except ConfigInvalid as error:
            raise ConfigInvalid(str(error).replace(str(candidate), str(self.source))) from None
        except OSError as error:
            raise ConfigInvalid(f"{error.filename or self.source}: cannot be read ({error.strerror})") from None
        finally:
            candidate.unlink(missing_ok=True)
        return config

    def _env(self, path: Path) -> dict[str, str]:
        return {"RELAY_CONFIG": str(path)} if self.source is not None else {}

    @staticmethod
    def _check(parts: Iterable[Part], env: Mapping[str, str]) -> None:
        for part in parts:
            if not part.check:
                continue
            try:
                done = subprocess.run(  # noqa: S603 - our own command
                    part.check,
                    env={**os.environ, **part.env, **env},
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=_CHECK_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise ConfigInvalid(f"{part.name} cannot be checked within {_CHECK_S} s") from None
            if done.returncode:
                said = done.stderr.decode("utf-8", "replace").strip().splitlines()
                raise ConfigInvalid(said[-1] if said else f"{part.name} refuses it without a word")

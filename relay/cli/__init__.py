"""`relay`: the one command. Each group of commands is a module of this package."""

from relay.cli.main import main

__all__ = ["main"]

"""`relay up` and `relay web`: the parts as processes of their own, watched, reloaded and stopped in order."""

from relay.supervisor.run import up, web

__all__ = ["up", "web"]

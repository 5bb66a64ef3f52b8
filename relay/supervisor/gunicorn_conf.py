"""The settings file that gunicorn executes, at its start and at each SIGHUP."""

from relay.supervisor.serving import from_environment

globals().update(from_environment())

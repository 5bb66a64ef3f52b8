# ruff: noqa: INP001 - gunicorn executes this file; it is in no package
"""Settings of gunicorn for containers that run it without `relay web`.

    gunicorn --config gunicorn.conf.py 'relay.app:create_app()'

The settings follow `relay.yaml` (`RELAY_CONFIG`, `RELAY_*`). A bare gunicorn ends at a SIGHUP onto a faulty file;
`relay web` checks the file first.
"""

from relay.supervisor.serving import from_environment

globals().update(from_environment())

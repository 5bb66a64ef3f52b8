"""The Python client of RJMetrics, as its README uses it. Arguments: base URL, client id, key, rows as JSON."""

import json
import sys

from rjmetrics.client import Client

base, number, key, rows = sys.argv[1:]
Client.API_BASE, Client.SANDBOX_BASE = base + "/v2", base + "/sandbox/v2"
client = Client(int(number), key)
stranger = Client(int(number), "wrong")
pushed = client.push_data("of_rjmetrics", json.loads(rows))
tried = client.push_data("tried", json.loads(rows), Client.SANDBOX_BASE)
# What the releases before /authenticate did to check a key.
older = client.push_data("test", Client._AUTH_TEST_DATA, Client.SANDBOX_BASE)
sys.stdout.write(
    json.dumps(
        {
            "authenticated": [client.authenticate(), stranger.authenticate()],
            "pushed": [answer.status_code for answer in pushed],
            "tried": [answer.status_code for answer in tried],
            "older": [answer.status_code for answer in older],
            "refused": [answer.ok for answer in stranger.push_data("of_rjmetrics", [{"keys": ["id"], "id": 0}])],
            "none": client.push_data("of_rjmetrics", []),
        }
    )
)

"""target-magentobi, whose settings cannot name another URL. Arguments: base URL, client id, key; stdin: Singer."""

import sys

import target_magentobi
from target_magentobi.client import Client

base, number, key = sys.argv[1:]
with Client(
    int(number), key, magentobi_url=base + "/v2/", callback_function=target_magentobi.write_last_state
) as client:
    state = target_magentobi.persist_lines(client, sys.stdin)
target_magentobi.write_last_state([state])

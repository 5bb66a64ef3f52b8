"""What events would change at destinations, tried there and rolled back; lanes and the ledger know nothing of it.

All records of a key are brought together first, on disk, so that each row is judged once, as if the events had been
delivered in one claim.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import msgspec

from relay.buffer.lanes import Claimed
from relay.errors import Permanent
from relay.records import encode_json, key_of
from worker.batching import collapse
from worker.delivery import Reader
from worker.destination import Batch, Destination, Item, Preview, Rejected, TableSpec

_items: Final = msgspec.json.Decoder(Item, float_hook=msgspec.json.decode)

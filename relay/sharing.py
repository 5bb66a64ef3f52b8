"""Tables that several sources of one kind write together (`tables_as`): whose row it is becomes part of its key.

Ids are unique within one account of a vendor, so that the rows of two accounts would else be taken for one. Pure.
"""

from __future__ import annotations

from typing import Final

import msgspec

from relay.records import Record, Table, Type

#: The source's name, first of the key.
OWNER: Final = "relay_source"


def shared(table: Table) -> Table:
    """A table as several sources write it."""
    return Table(
        table.name,
        (OWNER, *table.key),
        table.clock,
        {OWNER: Type.TEXT, **table.columns},
        (OWNER, *table.parent) if table.parent else (),
    )


def owned(record: Record, source: str) -> Record:
    """A record with its source in its key."""
    own = {OWNER: source}
    members = None if record.members is None else [own | member for member in record.members]
    return msgspec.structs.replace(record, data=own | record.data, members=members)

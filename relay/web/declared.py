"""What a handler says of itself, beside its code: what it takes, what it answers, and what opens it.

`relay.web.openapi` makes the description of all that is served from it. A shape is whatever msgspec makes a JSON
schema of; those of answers are typed dictionaries, so that the type checker holds a handler to what it declares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

JSON: Final = "application/json"
TEXT: Final = "text/plain"
FORM: Final = "application/x-www-form-urlencoded"
#: The header of an answer that says when to ask again.
RETRY_AFTER: Final = "Retry-After"

_View = TypeVar("_View", bound=Callable[..., Any])

ClientId = Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,8}$", description="The client's number.", examples=["12"])]


class Answer(msgspec.Struct, frozen=True):
    """One answer.

    Args:
        why: when it is given.
        kinds: media type -> shape of the body; none where it has no body.
        headers: name -> what it says.
    """

    why: str
    kinds: Mapping[str, Any] = {}
    headers: Mapping[str, str] = {}


class Operation(msgspec.Struct, frozen=True):
    """One thing that can be asked for; what it does stands in its handler's docstring.

    Args:
        tag: of the API that it belongs to.
        answers: by status.
        opened_by: name of a scheme in `relay.web.openapi`; empty where anybody may ask.
        takes: media type -> shape of the body that it takes; none where it takes none.
        needs_body: there must be one.
        query, headers: typed dictionaries of what it takes there.
    """

    tag: str
    answers: Mapping[int, Answer]
    opened_by: str = ""
    takes: Mapping[str, Any] = {}
    needs_body: bool = True
    query: Any = None
    headers: Any = None


_declared: Final[dict[Callable[..., Any], Operation]] = {}


def declares(operation: Operation) -> Callable[[_View], _View]:
    """Note what a handler takes and answers."""

    def note(view: _View) -> _View:
        _declared[view] = operation
        return view

    return note


def operation_of(view: Callable[..., Any]) -> Operation | None:
    """What a handler declares; None where it declares nothing."""
    return _declared.get(view)


def told(why: str, shape: Any) -> Answer:
    """An answer in JSON."""
    return Answer(why, {JSON: shape})


def later(why: str, shape: Any) -> Answer:
    """An answer in JSON that says when to ask again."""
    return Answer(why, {JSON: shape}, {RETRY_AFTER: "Seconds after which to ask again."})

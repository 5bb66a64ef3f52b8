"""What only the worker half can say, asked of it: one question at a time in each web process, for seconds at most.

It is the desk of the export API, and the same workers answer; no destination is opened here.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from rq import Worker

from relay.buffer.exports import Question
from relay.errors import BufferUnavailable
from relay.exports import Failed
from relay.web.console.gate import here
from relay.web.counter import desk
from relay.words import sentence

_WAIT_S: Final = 1.0
_seat: Final = threading.BoundedSemaphore(1)


class NoAnswer(Exception):
    """There is no answer, and the page goes on without one; the text is for people.

    Args:
        why: as a sentence. later: it may be asked again.
    """

    def __init__(self, why: str, *, later: bool = True) -> None:
        super().__init__(why)
        self.later = later


def ask(question: Question) -> Any:
    """The value of an answer, as JSON has it; None where there is no such thing.

    Raises:
        NoAnswer: nobody could say, or not in time.
    """
    if not Worker.count(connection=here().client):
        raise NoAnswer("No worker runs, so nobody can look there: start `relay worker` (or `relay up`).")
    if not _seat.acquire(timeout=_WAIT_S):
        raise NoAnswer("Somebody else looks just now: try again in a few seconds.")
    try:
        return desk().ask(question)
    except BufferUnavailable as error:
        raise NoAnswer(sentence(str(error))) from None
    except Failed as error:
        raise NoAnswer(sentence(str(error)), later=False) from None
    finally:
        _seat.release()

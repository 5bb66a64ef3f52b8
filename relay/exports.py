"""Asks the half that has destinations to read them: a question with an answer in seconds, or a table as a file."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Final

import msgspec
from redis.exceptions import RedisError
from rq import Queue

from relay.buffer.exports import Answer, Export, Exports, Numbers, Question, await_answer
from relay.buffer.redis import connect, unavailable
from relay.buffer.registry import Registry
from relay.config import Config
from relay.dispatch import ANSWER, QUESTIONS, ask_to_write
from relay.errors import BufferUnavailable

#: For so long a question waits for its answer.
ANSWER_S: Final = 8
#: Questions that may wait for somebody to answer them.
_MOST_ASKED: Final = 50


class Unanswered(BufferUnavailable):
    """Nobody answered in time: no worker runs, or all that read are busy."""

    reason = "unanswered"


class Desk:
    """Where a web process asks.

    Args:
        config: settings.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.folder = config, folder(config)
        self.client = connect(config.redis_url(), timeout_s=ANSWER_S + 4)
        self.exports, self.numbers = Exports(self.client), Numbers(self.client)
        self.registry = Registry(self.client)
        self._questions = Queue(QUESTIONS, connection=self.client)

    def ask(self, question: Question) -> Any:
        """The value of an answer; None where there is no such thing.

        Raises:
            Unanswered: nobody answered in time, or could read the destination now.
            BufferUnavailable: Redis cannot be asked.
            Failed: it is no use to ask again.
        """
        try:
            answer = self._ask(question)
        except (RedisError, OSError) as error:
            raise unavailable(error) from error
        if answer is None:
            raise Unanswered("no worker answered in time: is one running?", retry_after_s=5)
        if answer.fault == "away":
            raise Unanswered(answer.why, reason="destination_away", retry_after_s=10)
        if answer.fault == "failed":
            raise Failed(answer.why)
        return None if answer.fault else answer.value

    def _ask(self, question: Question) -> Answer | None:
        if self._questions.count >= _MOST_ASKED:
            raise Unanswered("too many questions wait for an answer", reason="busy", retry_after_s=5)
        token = secrets.token_hex(12)
        text = msgspec.json.encode(question).decode()
        # What nobody waits for any more is not begun.
        self._questions.enqueue(
            ANSWER, token, text, ttl=ANSWER_S, result_ttl=0, failure_ttl=3600, job_timeout=2 * ANSWER_S
        )
        return await_answer(self.client, token, ANSWER_S)

    def write(self, export: Export) -> None:
        """Have an export written."""
        try:
            ask_to_write(self.client, export.id)
        except (RedisError, OSError) as error:
            raise unavailable(error) from error


class Failed(Exception):
    """What was asked for cannot be read, now or later; the text is for people."""


def folder(config: Config) -> Path:
    """Where exports lie."""
    return config.data_dir / config.settings.files

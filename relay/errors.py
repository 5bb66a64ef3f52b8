"""Every exception of rowhook, named by what follows from it.

::

    RelayError
    ├── ConfigInvalid            start-up and `relay check` stop; names file, line and setting
    ├── IntakeError              what is wrong with one delivery
    │   ├── UnknownSource        404
    │   ├── Unauthenticated      401, one generic body; `reason` is for the operator only
    │   ├── SecretMissing        503: the source has no secret yet
    │   ├── BodyBroken           400: it ended early, or its chunks are none
    │   ├── TooLarge             413
    │   ├── UnsupportedMedia     415
    │   ├── MalformedPayload     verified but unreadable: quarantined, 202
    │   └── MappingFailed        readable but not mappable: quarantined, 202
    ├── BufferUnavailable        503 + Retry-After: nothing was stored
    ├── SealBroken               a kept refused request cannot be opened: it stays until it expires
    ├── StaleClaim               a settle came after its lease was lost: nothing was changed
    └── DeliveryError            what a destination said of a whole batch
        ├── Transient            the same batch may succeed later
        ├── Refused              credentials or access: pause and alert, bury nothing
        └── Permanent            it never will: bisect, then bury

`reason` is a constant word from a closed list; it is the label of the metric and the field of the log line.
"""

from __future__ import annotations


class RelayError(Exception):
    """Root of all errors that rowhook raises on purpose."""

    reason = "error"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class ConfigInvalid(RelayError):
    """The configuration cannot be used; the message names file, line and setting."""

    reason = "config_invalid"


class IntakeError(RelayError):
    """One delivery cannot be taken as it is."""


class UnknownSource(IntakeError):
    """No source of that name is configured."""

    reason = "unknown_source"


class Unauthenticated(IntakeError):
    """The signature is missing, malformed, wrong or stale."""

    reason = "signature_wrong"


class SecretMissing(IntakeError):
    """The source has no secret yet, so nothing can be verified."""

    reason = "secret_missing"


class BodyBroken(IntakeError):
    """The body ended before its end, or its chunks cannot be read."""

    reason = "body_broken"


class TooLarge(IntakeError):
    """The body is over the size limit, on the wire or once inflated."""

    reason = "too_large"


class UnsupportedMedia(IntakeError):
    """The body's type or encoding is one that this source cannot have."""

    reason = "unsupported_media"


class MalformedPayload(IntakeError):
    """A verified body that cannot be read."""

    reason = "malformed_payload"


class MappingFailed(IntakeError):
    """A readable event that our mapping could not turn into records; names the path."""

    reason = "mapping_failed"


class BufferUnavailable(RelayError):
    """Redis is away, full, slow, or over budget: nothing was stored, so ask again.

    Args:
        message: what happened, for people.
        reason: `redis_away`, `redis_full`, `redis_slow`, `over_budget`.
        retry_after_s: what the answer's Retry-After says, in seconds.
    """

    reason = "redis_away"

    def __init__(self, message: str, *, reason: str | None = None, retry_after_s: int = 5) -> None:
        super().__init__(message, reason=reason)
        self.retry_after_s = retry_after_s


class SealBroken(RelayError):
    """A kept request cannot be opened: it was sealed under another key, or changed since."""

    reason = "seal_broken"


class StaleClaim(RelayError):
    """The lease under which records were claimed is no longer ours."""

    reason = "stale_claim"


class DeliveryError(RelayError):
    """A destination did not take a batch; the message holds the destination's own words, no secrets."""


class Transient(DeliveryError):
    """The same batch may succeed later.

    Args:
        message: the destination's words.
        retry_after_s: what the destination asked for, in seconds, or None.
        unknown: True where the batch may have been applied all the same (time-out, reset, half an answer).
    """

    reason = "transient"

    def __init__(
        self, message: str, *, reason: str | None = None, retry_after_s: float | None = None, unknown: bool = False
    ) -> None:
        super().__init__(message, reason=reason)
        self.retry_after_s = retry_after_s
        self.unknown = unknown


class Refused(DeliveryError):
    """Credentials or access are refused (401, 403, bad password): pause and alert."""

    reason = "refused"


class Permanent(DeliveryError):
    """This batch will never be taken as it is."""

    reason = "permanent"

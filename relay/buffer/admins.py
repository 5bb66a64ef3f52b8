"""Who may use the console: admin users, one-time links at which they set a password, and their sessions.

Passwords are kept as argon2id hashes, links and sessions by the SHA-256 of their random tokens: whoever reads
Redis can become nobody. A user's record has a generation, which each new password and reset changes; what was
given out under another one, links and sessions, opens nothing any more.

https://www.rfc-editor.org/rfc/rfc9106 · https://cheatsheetseries.owasp.org/cheatsheets/Session_Management_Cheat_Sheet.html
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from typing import Any, Final

import msgspec
import redis as driver
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from redis.exceptions import WatchError

from relay.buffer import keys
from relay.buffer.throttle import Throttle
from relay.errors import BufferUnavailable, ConfigInvalid

#: A link opens for so long, a session lives so long at most, and so long without being used.
LINK_S: Final = 3600
SESSION_S: Final = 12 * 3600
IDLE_S: Final = 30 * 60
#: Characters of a password.
SHORTEST: Final = 12
LONGEST: Final = 512
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}\Z")
_TOKEN_BYTES: Final = 32
#: Stands for a generation in sessions of whom a proxy named; none of ours is like it.
_PROXIED: Final = "proxy"
#: Addresses of a session that are told apart.
_MOST_CALLERS: Final = 8
#: One hash takes 64 MiB and a good part of a second of a core: few at once, and few threads that wait for it,
#: since deliveries need the others.
_AT_ONCE: Final = 2
_WAITING: Final = 4
_WAIT_S: Final = 5.0
_hasher: Final = PasswordHasher(time_cost=3, memory_cost=65_536, parallelism=4)
_seats: Final = threading.BoundedSemaphore(_AT_ONCE)
_places: Final = threading.BoundedSemaphore(_WAITING)
#: What unknown users are compared with, so that they take as long; nobody's password.
_NOBODY: Final = (
    "$argon2id$v=19$m=65536,t=3,p=4$aAxlUra0QyDK38jo86zpHA$96VfLfXp/FPJyxwb1Aq1UDEjqjm0FyyiD27a8QE8d5E"
)


class _Stored(msgspec.Struct):
    """A user as `rh:admins` holds it; no hash: the password is still to be set."""

    generation: str
    hash: str = ""
    created_s: int = 0


class Admin(msgspec.Struct, frozen=True):
    """A user for people: whether a password is set, when made and when last logged in (seconds since 1970)."""

    name: str
    ready: bool
    created_s: int
    login_s: int


class Session(msgspec.Struct, frozen=True):
    """Who asks.

    Args:
        id: names the session in Redis. form: the token that each of its forms must bring.
        proxied: a trusted proxy named the user, and must go on naming it. callers: addresses it was used from.
    """

    id: str
    user: str
    form: str
    proxied: bool
    callers: tuple[str, ...]


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def form_token(token: str) -> str:
    """What the forms of a session bring; whoever sees one learns nothing of the session's own token."""
    return hashlib.blake2b(token.encode("utf-8", "replace"), digest_size=24, person=b"rowhook-form").hexdigest()


def is_name(text: str) -> bool:
    """Whether a text can be a user's name."""
    return bool(_NAME.match(text))


class Admins:
    """All admin users of a Redis.

    Args:
        client: Redis.
    """

    def __init__(self, client: driver.Redis) -> None:
        self.client, self._throttle = client, Throttle(client)

    # --- users ---------------------------------------------------------------------------------------------

    def every(self) -> list[Admin]:
        """All users, by name."""
        raw: Any = self.client.hgetall(keys.ADMINS)
        seen: Any = self.client.hgetall(keys.ADMINS_SEEN)
        return [
            Admin(name.decode(), bool(stored.hash), stored.created_s, int(seen.get(name, 0)))
            for name, stored in sorted((n, msgspec.json.decode(text, type=_Stored)) for n, text in raw.items())
        ]

    def add(self, name: str) -> str:
        """A new user; returns the token of the link at which a password is set.

        Raises:
            ConfigInvalid: the name cannot be one, or is taken.
        """
        if not is_name(name):
            raise ConfigInvalid("a name has up to 64 letters, digits and . _ @ + -, a letter or digit being first")
        stored = _Stored(_generation(), created_s=int(time.time()))
        if not self.client.hsetnx(keys.ADMINS, name, msgspec.json.encode(stored)):
            raise ConfigInvalid(f"there is an admin {name!r} already: `relay admin reset {name}` makes a new link")
        return self._link(name, stored.generation)

    def reset(self, name: str) -> str:
        """End a user's password and sessions at once; returns the token of a new link.

        Raises:
            ConfigInvalid: there is no such user.
        """
        stored = self._stored(name)
        if stored is None:
            raise _unknown(name)
        fresh = _Stored(_generation(), created_s=stored.created_s)
        self.client.hset(keys.ADMINS, name, msgspec.json.encode(fresh).decode())
        return self._link(name, fresh.generation)

    def remove(self, name: str) -> None:
        """Remove a user; its sessions end with it.

        Raises:
            ConfigInvalid: there is no such user.
        """
        if not self.client.hdel(keys.ADMINS, name):
            raise _unknown(name)
        self.client.hdel(keys.ADMINS_SEEN, name)

    def invite_first(self, name: str) -> str | None:
        """The token of a link for the first user; None where somebody has a password already."""
        found = {admin.name: admin for admin in self.every()}
        if any(admin.ready for admin in found.values()):
            return None
        return self.reset(name) if name in found else self.add(name)

    def _stored(self, name: str) -> _Stored | None:
        raw: Any = self.client.hget(keys.ADMINS, name)
        return None if raw is None else msgspec.json.decode(raw, type=_Stored)

    # --- links ---------------------------------------------------------------------------------------------

    def _link(self, name: str, generation: str) -> str:
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        self.client.set(keys.admin_link(_digest(token)), f"{generation}|{name}", ex=LINK_S)
        return token

    def invited(self, token: str) -> str | None:
        """Whose password a link sets; None where it opens nothing."""
        raw: Any = self.client.get(keys.admin_link(_digest(token)))
        return self._invited(raw)

    def _invited(self, raw: bytes | None) -> str | None:
        if raw is None:
            return None
        generation, _, name = raw.decode().partition("|")
        stored = self._stored(name)
        return name if stored is not None and stored.generation == generation else None

    def accept(self, token: str, password: str) -> str | None:
        """Set the password of whom a link is for, once; returns the name, None where the link opens nothing.

        Raises:
            ConfigInvalid: the password is too short or too long; the link stays good.
            BufferUnavailable: too many log in at once; it stays good too.
        """
        name = self.invited(token)
        if name is None:
            return None
        if not SHORTEST <= len(password) <= LONGEST or password.lower() == name.lower():
            raise ConfigInvalid(f"a password has {SHORTEST} to {LONGEST} characters, and is not the name")
        with _Seat():  # before the link is used up: where there is no room, it can be opened again
            hash_ = _hasher.hash(password)
        taken: Any = self.client.getdel(keys.admin_link(_digest(token)))
        name = self._invited(taken)
        stored = self._stored(name) if name is not None else None
        if name is None or stored is None:
            return None
        fresh = _Stored(_generation(), hash_, stored.created_s)
        return name if self._replace(name, stored.generation, fresh) else None

    def _replace(self, name: str, generation: str, fresh: _Stored) -> bool:
        """Write a user's record, where it is still of that generation: a reset in between is not undone."""
        pipe: Any
        with self.client.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(keys.ADMINS)
                    now = self._stored(name)
                    if now is None or now.generation != generation:
                        return False
                    pipe.multi()
                    pipe.hset(keys.ADMINS, name, msgspec.json.encode(fresh).decode())
                    pipe.execute()
                except WatchError:
                    continue
                else:
                    return True

    # --- passwords -----------------------------------------------------------------------------------------

    def login(self, name: str, password: str, address: str) -> str | None:
        """A new session's token, where a password is a user's; as slow, and as often, for users there are not.

        Raises:
            Throttled: too many attempts; the password was not even looked at.
        """
        self._throttle.count(name, address)
        stored = self._stored(name[:LONGEST])
        if not self._verify(stored.hash if stored is not None else "", password[: LONGEST + 1]) or stored is None:
            return None
        self._throttle.forgive(name, address)
        self.client.hset(keys.ADMINS_SEEN, name, int(time.time()))
        return self._begin(name, stored.generation, address)

    @staticmethod
    def _verify(kept: str, password: str) -> bool:
        with _Seat():
            try:
                return _hasher.verify(kept or _NOBODY, password) and bool(kept)
            except (VerificationError, InvalidHashError):
                return False

    # --- sessions ------------------------------------------------------------------------------------------

    def begin_proxied(self, name: str, address: str) -> str:
        """A new session's token for whom a trusted proxy names; it need not be a user of ours."""
        return self._begin(name, _PROXIED, address)

    def _begin(self, name: str, generation: str, address: str) -> str:
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        since = int(time.time())
        fields: Any = {"user": name, "generation": generation, "since": since, "callers": address}
        at = keys.admin_session(_digest(token))
        with self.client.pipeline() as pipe:
            pipe.hset(at, mapping=fields)
            pipe.expire(at, IDLE_S)
            pipe.execute()
        return token

    def find(self, token: str, *, touch: bool) -> Session | None:
        """The session of a token; None where there is none, or it has ended.

        Args:
            token: as the browser sent it.
            touch: a person is there: the idle time begins anew.
        """
        id_ = _digest(token)
        raw: Any = self.client.hmget(keys.admin_session(id_), ["user", "generation", "since", "callers"])
        if None in raw[:3]:
            return None
        user, generation, since, callers = ((value or b"").decode() for value in raw)
        proxied, left = generation == _PROXIED, int(since) + SESSION_S - int(time.time())
        stored = None if proxied else self._stored(user)
        if left <= 0 or not (proxied or (stored is not None and stored.generation == generation)):
            self.client.delete(keys.admin_session(id_))
            return None
        if touch:
            self.client.expire(keys.admin_session(id_), min(IDLE_S, left))
        return Session(id_, user, form_token(token), proxied, tuple(callers.split()))

    def moved(self, session: Session, address: str) -> bool:
        """Whether a session is used from an address for the first time, other than at its beginning.

        Of so many addresses none is news any more: a list of acts must not be filled by one browser.
        """
        if address in session.callers or len(session.callers) >= _MOST_CALLERS:
            return False
        at = keys.admin_session(session.id)
        with self.client.pipeline() as pipe:
            pipe.hset(at, "callers", " ".join([*session.callers, address]))
            pipe.expire(at, IDLE_S, nx=True)
            pipe.execute()
        return True

    def end(self, token: str) -> None:
        """End a session."""
        self.client.delete(keys.admin_session(_digest(token)))

    def end_all(self, name: str) -> None:
        """End all sessions of a user with a password, who keeps it."""
        stored = self._stored(name)
        if stored is not None:
            fresh = _Stored(_generation(), stored.hash, stored.created_s)
            self._replace(name, stored.generation, fresh)

    def say(self, session: Session, text: str) -> None:
        """Keep a sentence for the next page of a session."""
        at = keys.admin_session(session.id)
        with self.client.pipeline() as pipe:
            pipe.hset(at, "said", text)
            pipe.expire(at, IDLE_S, nx=True)  # one that just ended must not come back to stay
            pipe.execute()

    def said(self, session: Session) -> str:
        """That sentence, once."""
        at = keys.admin_session(session.id)
        raw: Any = self.client.hget(at, "said")
        if raw is None:
            return ""
        self.client.hdel(at, "said")
        return str(raw.decode())


class _Seat:
    """One of the few places at which a password is hashed."""

    def __enter__(self) -> None:
        if not _places.acquire(blocking=False):
            raise _busy()
        if not _seats.acquire(timeout=_WAIT_S):
            _places.release()
            raise _busy()

    def __exit__(self, *_: object) -> None:
        _seats.release()
        _places.release()


def _busy() -> BufferUnavailable:
    return BufferUnavailable("too many log in at once", reason="busy", retry_after_s=2)


def _generation() -> str:
    return secrets.token_hex(8)


def _unknown(name: str) -> ConfigInvalid:
    return ConfigInvalid(f"there is no admin {name[:64]!r}: see `relay admin list`")

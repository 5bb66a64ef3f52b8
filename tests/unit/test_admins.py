"""Users of the console on a real Valkey: links, passwords, sessions, and how often somebody may try."""

from __future__ import annotations

import re
import time
from types import SimpleNamespace

import pytest
import redis
from typer.testing import CliRunner

from relay.buffer import admins, keys, throttle
from relay.buffer.admins import Admins
from relay.buffer.throttle import Throttled
from relay.cli.main import app
from relay.errors import ConfigInvalid
from relay.supervisor import run

GOOD = "a long enough password"


@pytest.fixture
def client(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def users(client):
    return Admins(client)


@pytest.fixture
def ada(users):
    users.accept(users.add("ada"), GOOD)
    return users


def everything(client) -> str:
    """All of Redis as text."""
    found = []
    for key in client.scan_iter():
        kind = client.type(key)
        read = {b"string": client.get, b"hash": client.hgetall}[kind]
        found.append(f"{key} {read(key)}")
    return "\n".join(found)


def test_a_link_sets_a_password_once_and_the_password_begins_a_session(users):
    token = users.add("ada")
    assert users.invited(token) == "ada"
    assert users.login("ada", GOOD, "10.0.0.1") is None, "there is no password yet"
    assert users.accept(token, GOOD) == "ada"
    assert users.invited(token) is None
    assert users.accept(token, "another long password") is None
    session = users.find(users.login("ada", GOOD, "10.0.0.1"), touch=True)
    assert session.user == "ada"
    assert [(a.name, a.ready) for a in users.every()] == [("ada", True)]
    assert users.every()[0].login_s > 0


def test_neither_passwords_nor_tokens_stand_in_redis(users, client):
    link = users.add("ada")
    other = users.add("bob")
    users.accept(link, GOOD)
    session = users.login("ada", GOOD, "10.0.0.1")
    kept = everything(client)
    for secret in (GOOD, link, other, session, admins.form_token(session)):
        assert secret not in kept
    assert "$argon2id$" in kept


@pytest.mark.parametrize("password", ["", "short", "x" * 11, "y" * 513, "A.Lovelace@example.com"])
def test_a_bad_password_is_refused_and_leaves_the_link_good(users, password):
    token = users.add("a.lovelace@example.com")
    with pytest.raises(ConfigInvalid, match="12 to 512 characters"):
        users.accept(token, password)
    assert users.accept(token, GOOD) == "a.lovelace@example.com"


@pytest.mark.parametrize("name", ["", "-x", "a b", "<b>", "x" * 65, "ä", "a\n"])
def test_a_name_that_cannot_be_one_is_refused(users, name):
    with pytest.raises(ConfigInvalid, match="a name has"):
        users.add(name)


def test_a_name_is_given_once(ada):
    with pytest.raises(ConfigInvalid, match="already"):
        ada.add("ada")


def test_a_link_ends_after_an_hour_and_a_session_after_half_an_hour_without_use(users, client):
    token = users.add("ada")
    (link,) = client.scan_iter("rh:admin:link:*")
    assert 0 < client.ttl(link) <= 3600
    users.accept(token, GOOD)
    session = users.login("ada", GOOD, "10.0.0.1")
    (at,) = client.scan_iter("rh:admin:session:*")
    client.expire(at, 5)
    assert users.find(session, touch=False)
    assert client.ttl(at) <= 5, "nobody need be there"
    assert users.find(session, touch=True)
    assert 1790 < client.ttl(at) <= 1800
    client.delete(at)
    assert users.find(session, touch=True) is None


def test_a_session_ends_after_twelve_hours_however_much_it_is_used(ada, client):
    token = ada.login("ada", GOOD, "10.0.0.1")
    (at,) = client.scan_iter("rh:admin:session:*")
    client.hset(at, "since", int(time.time()) - 12 * 3600 + 60)
    assert ada.find(token, touch=True)
    assert client.ttl(at) <= 60
    client.hset(at, "since", int(time.time()) - 12 * 3600 - 1)
    assert ada.find(token, touch=True) is None
    assert not client.exists(at)


def test_reset_and_removal_end_password_sessions_and_links_at_once(ada):
    session = ada.login("ada", GOOD, "10.0.0.1")
    first = ada.reset("ada")
    assert ada.find(session, touch=True) is None
    assert ada.login("ada", GOOD, "10.0.0.1") is None
    second = ada.reset("ada")
    assert ada.invited(first) is None
    assert ada.accept(second, "yet another password") == "ada"
    session, third = ada.login("ada", "yet another password", "10.0.0.1"), ada.reset("ada")
    ada.remove("ada")
    assert ada.find(session, touch=True) is None
    assert ada.accept(third, GOOD) is None
    for act in (ada.remove, ada.reset):
        with pytest.raises(ConfigInvalid, match="there is no admin 'ada'"):
            act("ada")


def test_a_reset_while_the_new_password_is_hashed_is_not_undone(users, monkeypatch):
    token = users.add("ada")
    hash_ = admins._hasher.hash

    class Slow:
        def hash(self, password):
            users.reset("ada")
            return hash_(password)

    monkeypatch.setattr(admins, "_hasher", Slow())
    assert users.accept(token, GOOD) is None
    assert not users.every()[0].ready


def test_tries_of_a_user_from_one_address_end_after_five_and_the_password_is_not_looked_at(ada):
    for _ in range(5):
        assert ada.login("ada", "wrong", "10.0.0.1") is None
    with pytest.raises(Throttled) as throttled:
        ada.login("ada", GOOD, "10.0.0.1")
    assert 0 < throttled.value.seconds <= 900
    assert ada.login("ada", GOOD, "10.0.0.2"), "she is let in from elsewhere"


def test_users_there_are_not_are_throttled_alike_and_names_differ_by_more_than_case(ada):
    for name in ("nobody", "NOBODY", "Nobody", "nobody", "nobody"):
        assert ada.login(name, GOOD, "10.0.0.1") is None
    with pytest.raises(Throttled):
        ada.login("nobody", GOOD, "10.0.0.1")


def test_an_address_may_try_thirty_times_whatever_names_it_invents_and_an_ipv6_network_is_one(users, monkeypatch):
    monkeypatch.setattr(Admins, "_verify", staticmethod(lambda _kept, _password: False))
    for n in range(30):
        users.login(f"user{n}", "wrong", f"2001:db8::{n}")
    with pytest.raises(Throttled):
        users.login("somebody", "wrong", "2001:db8::ffff")
    assert users.login("somebody", "wrong", "2001:db8:0:1::1") is None


def test_counters_of_tries_are_bounded_and_go_by_themselves(users, client, monkeypatch):
    monkeypatch.setattr(Admins, "_verify", staticmethod(lambda _kept, _password: False))
    monkeypatch.setattr(throttle, "_BUCKET_DIGITS", 1)
    for n in range(100):
        try:
            users.login(f"user{n}", "wrong", f"10.0.{n}.1")
        except Throttled:
            continue
    found = list(client.scan_iter("rh:admin:tries:*"))
    assert len(found) <= 3 * 16
    assert all(0 < client.ttl(key) <= 900 for key in found)


def test_a_good_password_is_no_try(ada):
    for _ in range(8):
        assert ada.login("ada", GOOD, "10.0.0.1")


def test_a_user_there_is_not_takes_as_long_as_one_there_is(ada, monkeypatch):
    monkeypatch.setattr(ada._throttle, "count", lambda _name, _address: None)

    def takes(name):
        least = []
        for _ in range(3):
            began = time.perf_counter()
            ada.login(name, "wrong password", "10.0.0.1")
            least.append(time.perf_counter() - began)
        return min(least)

    known, unknown = takes("ada"), takes("nobody")
    assert unknown > known / 3, "an answer without a hash takes a hundredth"


def test_the_first_admin_is_invited_until_somebody_has_a_password(users):
    first, second = users.invite_first("admin"), users.invite_first("admin")
    assert users.invited(first) is None
    assert users.accept(second, GOOD) == "admin"
    assert users.invite_first("admin") is None


def test_a_start_says_the_first_admins_link_until_somebody_has_a_password(redis_url, users):
    address, said = SimpleNamespace(url="http://127.0.0.1:8123"), []
    run._invite(redis_url, address, said.append)
    (line,) = said
    token = re.search(r"http://127\.0\.0\.1:8123/console/welcome\?token=(\S+)", line)[1]
    assert users.accept(token, GOOD) == "admin"
    run._invite(redis_url, address, said.append)
    run._invite("redis://127.0.0.1:1", address, said.append)
    assert len(said) == 2
    assert said[1].startswith("no link for the console's first admin"), "a start goes on without Redis"


def test_a_sentence_is_kept_for_the_next_page_alone(ada, client):
    session = ada.find(ada.login("ada", GOOD, "10.0.0.1"), touch=True)
    ada.say(session, "done")
    assert [ada.said(session), ada.said(session)] == ["done", ""]
    client.delete(keys.admin_session(session.id))
    ada.say(session, "too late")
    assert all(client.ttl(key) > 0 for key in client.scan_iter("rh:admin:session:*"))


def test_the_command_adds_lists_resets_and_removes(redis_url, tmp_path, client):
    (tmp_path / "relay.yaml").write_text(f"redis_url: {redis_url}\n")
    (tmp_path / "port").write_text("8123")

    def relay(*args):
        return CliRunner().invoke(
            app, ["admin", *args, "--config", str(tmp_path / "relay.yaml"), "--data", str(tmp_path)]
        )

    assert "there is no admin" in relay("list").stdout
    link = relay("add", "ada").stdout.strip()
    assert link.startswith("http://127.0.0.1:8123/console/welcome?token=")
    users = Admins(client)
    assert users.invited(link.partition("token=")[2]) == "ada"
    assert relay("list").stdout == "ada: no password yet\n"
    again = relay("reset", "ada").stdout.strip().partition("token=")[2]
    assert users.accept(again, GOOD) == "ada"
    users.login("ada", GOOD, "10.0.0.1")
    assert relay("list").stdout.startswith("ada: last logged in 20")
    assert '"ready": true' in relay("list", "--json").stdout
    assert "$argon2" not in relay("list", "--json").stdout
    assert relay("remove", "ada").exit_code == 0
    assert users.every() == []

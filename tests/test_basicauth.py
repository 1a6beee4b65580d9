"""Passwords: who is let in, at what cost, and what a flood of wrong ones can do."""

import asyncio
import base64
import threading
from collections.abc import Callable

import bcrypt
import pytest

from exporter.common.errors import BusyError
from exporter.web import basic_auth
from exporter.web.basic_auth import Turns, Users, credentials, place
from tests.harness import eventually


def hashed(password: str, cost: int = 4) -> str:
    """A hash that takes no time, unless told otherwise."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


def basic(user: str, password: str) -> str:
    """The header of a user."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Checks:
    """Stands before bcrypt: which hashes were checked, and a gate at which checks wait."""

    def __init__(self) -> None:
        self.hashes: list[bytes] = []
        self.open = threading.Event()
        self.open.set()
        self.most = self._now = 0
        self._lock = threading.Lock()

    def __call__(self, password: bytes, hashed: bytes) -> bool:
        """What bcrypt says, once the gate is open."""
        with self._lock:
            self.hashes.append(hashed)
            self._now += 1
            self.most = max(self.most, self._now)
        self.open.wait(20)
        with self._lock:
            self._now -= 1
        return bcrypt.checkpw(password, hashed)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Checks:
    """Counts what is computed."""
    found = Checks()
    monkeypatch.setattr(basic_auth, "_matches", found)
    return found


@pytest.fixture
def users() -> Users:
    """Two users."""
    return Users({"alice": hashed("right"), "bob": hashed("bob's")}, Turns())


MALFORMED = (
    None, "", "Basic", "Basic ", "basic", "Bearer abc", "Basic !!!", "Basic YWxpY2U", "Basic YWxpY2U=",
    "Basic  YWxpY2U6cmlnaHQ=", "Basic YWxpY2U6cmlnaHQ= ", "Basic YWxpY2U6cmlnaHQ=x", "Basic é", "Basic \udcff",
    "YWxpY2U6cmlnaHQ=", "Digest YWxpY2U6cmlnaHQ=",
)  # fmt: skip


@pytest.mark.parametrize("header", MALFORMED)
async def test_a_malformed_header_admits_nobody(users: Users, checks: Checks, header: str | None):
    """What is no user and password in Base64 after `Basic` is refused without a computation."""
    assert await users.admits(header, address=None) is False
    assert checks.hashes == []


def test_credentials_are_split_at_the_first_colon():
    """A password may have colons and any bytes, a user may be empty; the scheme's case is no matter."""
    assert credentials(basic("a", "b:c")) == (b"a", b"b:c")
    assert credentials("bASIC " + base64.b64encode(b":\xff\x00").decode()) == (b"", b"\xff\x00")


async def test_only_the_right_password_of_a_user_is_admitted(users: Users):
    """Each user's own password, and nothing else."""
    for user, password, admitted in (
        ("alice", "right", True), ("bob", "bob's", True), ("alice", "bob's", False), ("alice", "", False),
        ("Alice", "right", False), ("", "right", False), ("mallory", "right", False), ("alice", "right\0", False),
        ("alice", "x" * 5000, False),
    ):  # fmt: skip
        for _ in range(2):
            assert await users.admits(basic(user, password), address=None) is admitted, (user, password)


async def test_answers_are_remembered(users: Users, checks: Checks):
    """Neither a right nor a wrong password is computed twice; a new configuration remembers nothing of it."""
    for _ in range(3):
        assert await users.admits(basic("alice", "right"), address="10.0.0.1")
        assert not await users.admits(basic("alice", "wrong"), address="10.0.0.2")
        assert not await users.admits(basic("nobody", "right"), address="10.0.0.2")
    assert len(checks.hashes) == 3
    again = Users({"alice": hashed("wrong")}, Turns())
    assert not await again.admits(basic("alice", "right"), address="10.0.0.1")
    assert await again.admits(basic("alice", "wrong"), address="10.0.0.1")


async def test_no_password_is_kept(users: Users):
    """What is remembered has neither user nor password in it."""
    await users.admits(basic("alice", "right"), address=None)
    await users.admits(basic("alice", "wrong-one"), address=None)
    kept = repr([users._right, users._wrong, users._running])
    assert "wrong-one" not in kept
    assert "alice" not in kept


async def test_an_unknown_user_costs_the_same(checks: Checks):
    """For a user who is not there a hash of a real user's cost is computed, always the same one for the same name."""
    users = Users({"alice": hashed("right", 4), "bob": hashed("right", 5)}, Turns())
    known = set(users._hashes.values())
    for number in range(40):
        before = len(checks.hashes)
        assert not await users.admits(basic(f"user-{number}", "right"), address=None)
        assert not await users.admits(basic(f"user-{number}", "other"), address=None)
        assert len(checks.hashes) == before + 2
        assert checks.hashes[-1] == checks.hashes[-2]
    assert set(checks.hashes) == known


async def test_the_same_question_is_computed_once(users: Users, checks: Checks):
    """Any number of identical requests at once share one computation, even if the one that came first goes away."""
    checks.open.clear()
    asked = [
        asyncio.create_task(users.admits(basic("alice", "right"), address=f"10.0.0.{each}")) for each in range(100)
    ]
    await eventually(lambda: checks.hashes)
    asked[0].cancel()
    checks.open.set()
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == [True] * 99
    assert len(checks.hashes) == 1


async def guesses(users: Users, number: int, address: Callable[[int], str]) -> list[asyncio.Task[bool]]:
    """So many different wrong passwords at once."""
    tasks = [
        asyncio.create_task(users.admits(basic("alice", f"guess-{each}"), address=address(each)))
        for each in range(number)
    ]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_a_flood_from_one_place_delays_nobody_else(users: Users, checks: Checks):
    """Of one place only so many wait, the others are told to come again; somebody else's turn is the next."""
    checks.open.clear()
    flood = await guesses(users, 500, lambda _: "10.6.6.6")
    mine = asyncio.create_task(users.admits(basic("bob", "bob's"), address="10.0.0.1"))
    await eventually(lambda: len(checks.hashes) == 2)
    assert users._hashes[b"bob"] in checks.hashes
    assert sum(isinstance(each.exception(), BusyError) for each in flood if each.done()) == 500 - basic_auth.LINE
    checks.open.set()
    assert await mine
    found = await asyncio.gather(*flood, return_exceptions=True)
    assert found.count(False) == basic_auth.LINE
    assert checks.most <= basic_auth.AT_ONCE
    assert len(checks.hashes) == basic_auth.LINE + 1


async def test_a_flood_from_everywhere_is_bounded(users: Users, checks: Checks):
    """However many places guess, so many of them wait; who has been admitted before is admitted without waiting."""
    assert await users.admits(basic("bob", "bob's"), address="10.0.0.1")
    checks.open.clear()
    flood = await guesses(users, 1000, lambda each: f"10.1.{each // 250}.{each % 250}")
    assert sum(each.done() for each in flood) == 1000 - basic_auth.PLACES
    assert await users.admits(basic("bob", "bob's"), address="10.0.0.1")
    checks.open.set()
    found = await asyncio.gather(*flood, return_exceptions=True)
    assert found.count(False) == basic_auth.PLACES
    assert checks.most <= basic_auth.AT_ONCE


async def test_wrong_answers_push_out_no_right_one(users: Users, checks: Checks, monkeypatch: pytest.MonkeyPatch):
    """What is remembered is bounded, and any number of wrong passwords leaves the right ones remembered."""
    monkeypatch.setattr(basic_auth, "REMEMBERED", 10)
    assert await users.admits(basic("alice", "right"), address=None)
    for number in range(30):
        assert not await users.admits(basic("alice", f"wrong-{number}"), address=None)
    assert len(users._wrong) == 10
    before = len(checks.hashes)
    assert await users.admits(basic("alice", "right"), address=None)
    assert len(checks.hashes) == before


def test_places():
    """An IPv4 address is a place, an IPv6 network is one, whoever has no address is here."""
    assert place("10.0.0.1") != place("10.0.0.2")
    assert place("2001:db8::1") == place("2001:db8::ffff:1") != place("2001:db8:0:1::1")
    assert place("fe80::1%eth0") == place("fe80::2")
    assert place(None) == place("") == "here"

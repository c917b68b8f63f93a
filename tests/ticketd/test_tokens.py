"""The token file."""

import hashlib
import io
import os
from pathlib import Path

import orjson
import pytest

from servicedesk.logs import Log
from ticketd.errors import UnauthenticatedError
from ticketd.tokens import READ, WRITE, Caller, TokenFile, TokenFileError, read_tokens


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_caller_has_the_name_and_the_scopes_of_its_line(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(
        f"# комментарий\n\n  desk {digest('one')} tickets:read,tickets:write # and more\n"
        f"report\t{digest('two').upper()}\ttickets:read\n",
        encoding="utf-8",
    )
    tokens = TokenFile(path, Clock(), Log("ticketd"))
    assert tokens.caller(b"Bearer one") == Caller(name="desk", scopes=frozenset({READ, WRITE}))
    assert tokens.caller(b"bearer  two ") == Caller(name="report", scopes=frozenset({READ}))


@pytest.mark.parametrize("header", [None, b"", b"Bearer", b"Basic b25l", b"Bearer three", b"one"])
def test_anything_else_is_nobody(tmp_path: Path, header: bytes | None) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"desk {digest('one')} tickets:read\n")
    with pytest.raises(UnauthenticatedError) as refused:
        TokenFile(path, Clock(), Log("ticketd")).caller(header)
    assert refused.value.headers[0][1].startswith(b"Bearer ")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("desk", "does not have a name"),
        (f"desk {digest('x')[:-1]} tickets:read", "64 hex digits"),
        (f"desk {digest('x')} tickets:delete", "scopes other than"),
        (f"стол {digest('x')} tickets:read", "visible ASCII"),
        (f"desk {digest('one')} tickets:read", "repeats a token"),
    ],
)
def test_wrong_line_is_named_without_its_digest(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"first {digest('one')} tickets:read\n{line}\n", encoding="utf-8")
    with pytest.raises(TokenFileError, match="line 2") as refused:
        read_tokens(path)
    assert reason in str(refused.value)
    assert digest("one") not in str(refused.value)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match="No such file"):
        TokenFile(tmp_path / "tokens", Clock(), Log("ticketd"))


def test_changed_file_is_read_after_a_second_and_a_broken_one_is_not(tmp_path: Path) -> None:
    path, clock, stream = tmp_path / "tokens", Clock(), io.StringIO()
    path.write_text(f"desk {digest('one')} tickets:read\n")
    tokens = TokenFile(path, clock, Log("ticketd", stream=stream))
    path.write_text(f"office {digest('two')} tickets:read\n")
    assert tokens.caller(b"Bearer one").name == "desk"
    clock.now = 1.0
    assert tokens.caller(b"Bearer two").name == "office"
    with pytest.raises(UnauthenticatedError):
        tokens.caller(b"Bearer one")

    path.write_text("broken\n")
    clock.now = 2.0
    assert tokens.caller(b"Bearer two").name == "office"
    path.unlink()
    clock.now = 3.0
    assert tokens.caller(b"Bearer two").name == "office"
    path.write_text(f"last {digest('three')} tickets:read\n")
    clock.now = 4.0
    assert tokens.caller(b"Bearer three").name == "last"
    events = [orjson.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert events == ["tokens_read", "tokens_kept", "tokens_kept", "tokens_read"]


def test_padded_tokens_are_known_and_not_remembered(tmp_path: Path) -> None:
    """A caller may write a token in as many ways as there are spaces in 16 KB of headers."""
    path = tmp_path / "tokens"
    path.write_text(f"desk {digest('one')} tickets:read\n")
    tokens = TokenFile(path, Clock(), Log("ticketd", stream=io.StringIO()))
    for spaces in range(1, 1000):
        assert tokens.caller(b"Bearer " + b" " * spaces * 10 + b"one").name == "desk"
    assert len(tokens._seen) < 60


def test_file_replaced_by_one_of_the_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    path, clock = tmp_path / "tokens", Clock()
    path.write_text(f"desk {digest('one')} tickets:read\n")
    tokens = TokenFile(path, clock, Log("ticketd", stream=io.StringIO()))
    new = tmp_path / "new"
    new.write_text(f"desk {digest('two')} tickets:read\n")
    before = path.stat()
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(path)
    clock.now = 1.0
    assert tokens.caller(b"Bearer two").name == "desk"

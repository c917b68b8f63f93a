"""Contestants give the same answers and leave the same rows; the peers are tried where they are
installed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench import contestants
from bench.agreement import Answers, DisagreementError, answers_of, require_agreement
from bench.contestants import Service
from bench.variants import LeftOutError, Variant

Make = Callable[[str, Path], Service]


def found_by(make: Make, database_url: str, folder: Path) -> Answers:
    try:
        service = make(database_url, folder)
    except LeftOutError as reason:
        pytest.skip(str(reason))
    service.start()
    try:
        return answers_of(service.url, service.token, database_url)
    finally:
        service.stop()


def ticketd(database_url: str, folder: Path) -> Service:
    return contestants.ticketd(Variant(name="ticketd"), database_url, folder)


def fastapi(database_url: str, folder: Path) -> Service:
    return contestants.fastapi(database_url, folder, 1)


@pytest.mark.parametrize("peer", [fastapi, contestants.go], ids=["fastapi", "go"])
def test_peer_answers_and_writes_what_ticketd_does(
    peer: Make, database_url: str, tmp_path: Path
) -> None:
    expected = found_by(ticketd, database_url, tmp_path)
    require_agreement("peer", expected, found_by(peer, database_url, tmp_path))


def test_difference_is_named(database_url: str, tmp_path: Path) -> None:
    found = found_by(ticketd, database_url, tmp_path)
    assert found.create["status"] == 201
    assert found.wrong == (400, ("colour", "priority", "requester", "title"))
    require_agreement("same", found, found)
    with pytest.raises(DisagreementError, match=r"other does not do the same: missing: 500"):
        require_agreement("other", found, replace(found, missing=500))

"""Root runs PostgreSQL as somebody who can reach it, and changes nobody's directories for that."""

import os
import stat
from pathlib import Path
from shutil import rmtree

import psycopg
import pytest

from deploy.local.child import Account, StartError
from deploy.local.ports import free_port
from deploy.local.postgres import FLEETING, NOBODY, Postgres, place

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to run it as another")


@needs_root
def test_data_below_a_closed_directory_moves_and_the_directory_stays_closed(
    tmp_path: Path, servers_directory: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    placement = place(closed / "local" / "postgres", servers_directory / "spare")
    assert placement.moved
    assert placement.account == NOBODY
    assert placement.data.parent == servers_directory / "spare"
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    server = Postgres(
        placement=placement,
        port=free_port(),
        password="it's a secret: %40",
        log=tmp_path / "postgres.log",
        settings=FLEETING,
    )
    server.start()
    server.wait_ready()
    psycopg.connect(server.url()).close()
    server.stop()
    assert place(closed / "local" / "postgres", servers_directory / "spare") == placement
    rmtree(closed / "local")
    fresh = place(closed / "local" / "postgres", servers_directory / "spare")
    assert fresh.data != placement.data


def test_password_that_does_not_fit_the_data_is_told_at_once(servers_directory: Path) -> None:
    placement = place(servers_directory / "forgotten" / "postgres", servers_directory / "spare")
    for password in ("first", "second"):
        server = Postgres(
            placement=placement,
            port=free_port(),
            password=password,
            log=servers_directory / "forgotten.log",
            settings=FLEETING,
        )
        server.start()
        if password == "first":
            server.wait_ready()
        else:
            with pytest.raises(StartError, match="not the one of the data"):
                server.wait_ready()
        server.stop()


@needs_root
def test_data_of_an_ordinary_user_is_run_as_that_user(servers_directory: Path) -> None:
    data = servers_directory / "of-a-user"
    data.mkdir()
    os.chown(data, 4711, 4712)
    placement = place(data, servers_directory / "spare")
    assert (placement.data, placement.account) == (data, Account(4711, 4712))


@needs_root
def test_data_that_can_no_longer_be_reached_is_not_forgotten(
    tmp_path: Path, servers_directory: Path
) -> None:
    data = tmp_path / "closed" / "postgres"
    data.mkdir(parents=True)
    data.parent.chmod(0o700)
    with pytest.raises(StartError, match="cannot reach its data in"):
        place(data, servers_directory / "spare")

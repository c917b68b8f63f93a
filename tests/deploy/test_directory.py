"""The directory remembers ports and secrets, keeps secrets private, and has one holder."""

import socket
import stat
from pathlib import Path

import pytest

from deploy.local.child import StartError
from deploy.local.directory import LocalDirectory


def test_second_holder_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    first = LocalDirectory(tmp_path / "local").open()
    second = LocalDirectory(tmp_path / "local")
    with pytest.raises(StartError, match="a stack runs already"):
        second.open()
    assert second.is_taken()
    first.close()
    assert not second.is_taken()
    second.open().close()


def test_ports_and_secrets_are_those_of_the_last_start(tmp_path: Path) -> None:
    with_port = LocalDirectory(tmp_path / "local").open()
    port, password = with_port.port("postgres"), with_port.password("postgres")
    other = with_port.port("valkey")
    with_port.close()
    again = LocalDirectory(tmp_path / "local").open()
    assert (again.port("postgres"), again.password("postgres")) == (port, password)
    again.close()
    with socket.create_server(("127.0.0.1", port)):
        elsewhere = LocalDirectory(tmp_path / "local").open()
        assert elsewhere.port("postgres") not in {port, other}
        elsewhere.close()


def test_secrets_and_settings_are_readable_for_their_owner_only(tmp_path: Path) -> None:
    directory = LocalDirectory(tmp_path / "local").open()
    directory.password("postgres")
    assert directory.webhook_secret().startswith("whsec_")
    settings = {"DATABASE_URL": "postgresql://a:b@c/d?e=f g", "TITLE": "it's «так»"}
    directory.write_settings(settings)
    assert directory.read_settings() == settings
    for name in ("postgres.password", "webhook.secret", "stack.env", "ports.json"):
        path = directory.path / name
        if path.exists():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    directory.close()

"""The command line of the bench."""

import platform
import sys

import pytest

from bench.scenarios import SCENARIOS
from bench.settings import parse_settings


def test_every_scenario_runs_on_ticketd_as_it_ships_unless_told_otherwise() -> None:
    found = parse_settings([])
    assert found.scenarios == tuple(SCENARIOS)
    assert [(each.name, dict(each.environment)) for each in found.variants] == [("ticketd", {})]
    assert found.peers == ()


def test_variants_by_settings_and_by_commit_run_beside_the_tree() -> None:
    found = parse_settings(["--variant", "small:TICKETD_LANES=4", "--commit", "old=HEAD~3"])
    assert [(each.name, dict(each.environment), each.commit) for each in found.variants] == [
        ("ticketd", {}, ""),
        ("small", {"TICKETD_LANES": "4"}, ""),
        ("old", {}, "HEAD~3"),
    ]


def test_variant_may_have_the_redis_of_the_run() -> None:
    found = parse_settings(["--variant", "cache:TICKETD_CACHE=true,REDIS_URL=run"])
    assert [(each.redis, dict(each.environment)) for each in found.variants] == [
        (False, {}),
        (True, {"TICKETD_CACHE": "true"}),
    ]


def test_every_variant_runs_with_keys_and_beside_redis() -> None:
    found = parse_settings(["--redis", "--keyed", "--without-ticketd", "--variant", "small:A=1"])
    assert [(each.name, each.redis, each.keyed) for each in found.variants] == [
        ("small", False, False),
        ("small-redis", True, False),
        ("small-keyed", False, True),
        ("small-redis-keyed", True, True),
    ]
    assert {each.environment["A"] for each in found.variants} == {"1"}


def test_every_variant_runs_with_every_number_of_workers() -> None:
    found = parse_settings(["--workers", "1,2", "--variant", "raw:TICKETD_ACCESS_LOG=off"])
    assert [each.name for each in found.variants] == [
        "ticketd-1w", "ticketd-2w", "raw-1w", "raw-2w",
    ]  # fmt: skip
    assert found.variants[1].environment == {"TICKETD_WORKERS": "2"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--scenarios", "create,fly"],
        ["--rounds", "0"],
        ["--seconds", "0"],
        ["--peers", "django"],
        ["--variant", "a:TICKETD_LANES"],
        ["--commit", "old=--output=/tmp/x"],
        ["--label", "../x"],
        ["--description-bytes", "8000"],
    ],
)
def test_wrong_argument_ends_with_code_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_settings(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_interpreter_is_another_way_to_run_and_is_told_by_its_build() -> None:
    (own, other) = parse_settings(["--python", f"other={sys.executable}"]).variants
    assert (own.name, other.name) == ("ticketd", "other")
    assert other.description()["python"].startswith(platform.python_version())


@pytest.mark.parametrize("text", ["other=/nowhere/python", "other", "other="])
def test_interpreter_that_does_not_run_ends_the_bench(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_settings(["--python", text])
    assert "is not NAME=PATH of an interpreter" in capsys.readouterr().err

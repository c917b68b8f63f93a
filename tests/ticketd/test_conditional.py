"""Entity tags in If-Match and If-None-Match."""

import pytest

from ticketd.conditional import entity_tag, expected_versions, is_current
from ticketd.errors import InvalidFieldsError
from ticketd.tickets import Versions


@pytest.mark.parametrize(
    ("if_match", "versions"),
    [
        (b'"3"', frozenset({3})),
        (b'"3", "5"', frozenset({3, 5})),
        (b' ,"3",, "5" ,', frozenset({3, 5})),
        (b'W/"3"', frozenset()),
        (b'W/"3", "4"', frozenset({4})),
        (b'"", "abc", "03", "-1", "\xd1\x8f"', frozenset()),
        (b"*", None),
    ],
)
def test_if_match_names_the_versions_that_may_pass(if_match: bytes, versions: Versions) -> None:
    assert expected_versions(if_match) == versions


@pytest.mark.parametrize("malformed", [b"", b"3", b'"3', b'"3" "4"', b'w/"3"', b'*, "3"', b'"3";'])
def test_malformed_if_match_is_refused(malformed: bytes) -> None:
    with pytest.raises(InvalidFieldsError):
        expected_versions(malformed)


@pytest.mark.parametrize("tags", [b'"3"', b'W/"3"', b'"1", W/"3"', b"*"])
def test_caller_who_has_the_version_is_current(tags: bytes) -> None:
    assert is_current(tags, 3)


@pytest.mark.parametrize("tags", [b'"2"', b'"33"', b"3", b"", b'"3', b'"03"'])
def test_caller_with_anything_else_is_not_current(tags: bytes) -> None:
    assert not is_current(tags, 3)


def test_tag_of_a_version_is_its_number_in_quotes() -> None:
    assert entity_tag(12).pairs == ((b"etag", b'"12"'),)
    assert entity_tag(12).lines == b'etag: "12"\r\n'

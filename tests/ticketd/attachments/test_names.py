"""File names of every script come back as they went in, and bring nothing else into a header."""

import httpx
from aiohttp import content_disposition_filename, parse_content_disposition
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ticketd.application import running
from tests.ticketd.attachments.conversation import client_of
from ticketd.attachments.attachment import NAME, is_name
from ticketd.attachments.disposition import content_disposition

NAMES = [
    "plain.txt",
    "Журнал ошибок за март.txt",
    "صورة الطابعة.png",
    "תמונה.png",
    "打印机 日志.log",
    "👩‍👩‍👧‍👦 семья.png",
    "e\u0301té.txt",
    'quoted "name".txt',
    "semi;colon=and, comma.txt",
    "per%20cent %41.txt",
    "it's a 'test'.txt",
    "filename*=UTF-8''evil.exe",
    "…",
    ".hidden",
    "no extension",
    "a" * 200,
    "я" * 200,
]


def name_in(header: str) -> str | None:
    """As another house's parser of RFC 6266 reads it."""
    kind, parameters = parse_content_disposition(header)
    assert kind == "attachment"
    return content_disposition_filename(parameters)


async def test_downloads_have_their_names_in_every_script(environment: dict[str, str]) -> None:
    found = {}
    async with running(environment) as app:
        client = await client_of(app)
        for name in NAMES:
            attachment = await client.attach(name=name)
            assert attachment["name"] == name
            downloaded = await client.download(attachment)
            found[name] = name_in(downloaded.headers["content-disposition"])
            redirect = await app.client.head(client.path_of(attachment))
            async with httpx.AsyncClient() as plain:
                head = await plain.head(redirect.headers["location"])
            assert head.headers["content-disposition"] == downloaded.headers["content-disposition"]
            await client.delete(attachment)
    assert found == {name: name for name in NAMES}


@settings(deadline=None)
@given(st.from_regex(NAME))
def test_any_allowed_name_is_carried_by_a_header_of_one_line(name: str) -> None:
    if not is_name(name):
        return  # The pattern's $ leaves a line end through, and a length it does not say.
    header = content_disposition(name)
    assert header.isascii()
    assert header.isprintable()
    assert name_in(header) == name


def test_old_clients_get_a_name_that_is_safe_in_quotes() -> None:
    header = content_disposition('a"b\\c%41 я.txt')
    assert 'filename="a_b_c_41 _.txt"; ' in header

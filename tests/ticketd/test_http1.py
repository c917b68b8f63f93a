"""HTTP/1.1 as it comes off the wire: framing, order, and what is not HTTP at all."""

import asyncio
from email.utils import parsedate_to_datetime

import pytest

from tests.support.http_client import RawClient
from tests.ticketd.application import NEW, Running
from tests.ticketd.on_wire import BODY, CHUNKED, GET, on_wire, post


def test_requests_of_one_connection_are_answered_in_their_order() -> None:
    async def act(app: Running, client: RawClient) -> None:
        del app
        paths = [b"/healthz", b"/nowhere", b"/openapi.yaml", b"/tickets"] * 5
        requests = [b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in paths]
        client.send(post() + b"".join(requests) + post())
        statuses = [(await client.answer()).status for _ in range(22)]
        assert statuses == [201, *[200, 404, 200, 200] * 5, 201]

    on_wire(act)


def test_slow_requests_of_one_connection_are_answered_in_their_order(database_url: str) -> None:
    async def act(app: Running, client: RawClient) -> None:
        ticket = await app.create()
        read = f"GET /tickets/{ticket['id']} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        client.send((read + GET + post()) * 3)
        statuses = [(await client.answer()).status for _ in range(9)]
        assert statuses == [200, 200, 201] * 3

    on_wire(act, {"DATABASE_URL": database_url})


@pytest.mark.parametrize("framing", [(), (b"Transfer-Encoding: chunked",)])
def test_request_in_single_bytes_is_the_same_request(framing: tuple[bytes, ...]) -> None:
    async def act(app: Running, client: RawClient) -> None:
        del app
        for byte in post(*framing, body=CHUNKED if framing else BODY) + GET:
            client.send(bytes([byte]))
            await client.writer.drain()
            await asyncio.sleep(0)
        assert (await client.answer()).json()["title"] == NEW["title"]
        assert (await client.answer()).status == 200

    on_wire(act)


NOT_HTTP = {
    "noise": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is TLS\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "method with a space before it": b" GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no Host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "two lengths": post(b"Content-Length: 4", b"Content-Length: 5"),
    "length and chunks": post(b"Content-Length: 4", b"Transfer-Encoding: chunked", body=CHUNKED),
    "length that is no number": post(b"Content-Length: 1e3"),
    "negative length": post(b"Content-Length: -1"),
    "length beyond 64 bits": post(b"Content-Length: 99999999999999999999999"),
    "space before a colon": b"GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n",
    "NUL in a header": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: \x00\r\n\r\n",
    "bare carriage return": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: b\rX-B: c\r\n\r\n",
    "chunk size that is none": post(b"Transfer-Encoding: chunked", body=b"zz\r\nab\r\n0\r\n\r\n"),
    "coding that ends in another": post(b"Transfer-Encoding: chunked, gzip", body=CHUNKED),
}


@pytest.mark.parametrize("request_bytes", NOT_HTTP.values(), ids=NOT_HTTP)
def test_what_is_not_http_is_400_and_ends_the_connection(request_bytes: bytes) -> None:
    async def act(app: Running, client: RawClient) -> None:
        client.send(GET + request_bytes + GET)
        assert (await client.answer()).status == 200, "what came before is answered"
        answer = await client.answer()
        assert (answer.status, answer.code) == (400, "malformed_request")
        assert answer.headers["connection"] == "close"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        assert await client.is_closed()
        assert app.events("request_failed") == []

    on_wire(act)


def test_body_before_what_is_not_http_is_not_taken_for_a_request() -> None:
    async def act(app: Running, client: RawClient) -> None:
        del app
        body = b"GET /healthz HTTP/1.1\r\n"
        client.send(post(body=body)[: -len(body)])
        await client.writer.drain()
        await asyncio.sleep(0.1)
        client.send(body + b"\x00\r\n\r\n")
        assert [(await client.answer()).code for _ in range(2)] == [
            "malformed_json",
            "malformed_request",
        ]
        assert await client.is_closed()

    on_wire(act)


@pytest.mark.parametrize("target", [b"http://x/healthz", b"/%68ealthz", b"/healthz?"])
def test_every_form_of_a_target_finds_its_path(target: bytes) -> None:
    async def act(app: Running, client: RawClient) -> None:
        del app
        client.send(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
        assert (await client.answer()).status == 200

    on_wire(act)


def test_tunnel_is_refused_and_what_follows_is_not_read() -> None:
    async def act(app: Running, client: RawClient) -> None:
        del app
        client.send(GET * 2 + b"CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n" + GET)
        assert [(await client.answer()).status for _ in range(2)] == [200, 200]
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (404, "close")
        assert await client.is_closed()

    on_wire(act)


@pytest.mark.parametrize("framing", [(), (b"Transfer-Encoding: chunked",)])
def test_offered_upgrade_is_declined_and_the_request_served(framing: tuple[bytes, ...]) -> None:
    """Java and Kotlin clients offer h2c with every first request; its body follows all the same."""

    async def act(app: Running, client: RawClient) -> None:
        del app
        offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA")
        body = CHUNKED if framing else BODY
        for split in (0, 1, len(body) // 2):
            whole = post(*offer, *framing, body=body) + GET
            cut = len(whole) - len(GET) - split
            client.send(whole[:cut])
            await client.writer.drain()
            await asyncio.sleep(0)
            client.send(whole[cut:])
            answer = await client.answer()
            assert (answer.status, answer.json()["title"]) == (201, NEW["title"])
            assert (await client.answer()).status == 200

    on_wire(act)


def test_upgrade_offered_again_in_a_pipeline_ends_it() -> None:
    async def act(app: Running, client: RawClient) -> None:
        del app
        client.send(post(b"Connection: Upgrade", b"Upgrade: h2c") * 3000)
        answers = [await client.answer() for _ in range(2)]
        assert [answer.status for answer in answers] == [201, 400]
        assert await client.is_closed()

    on_wire(act)


def test_client_that_expects_it_is_told_to_continue() -> None:
    async def act(app: Running, client: RawClient) -> None:
        del app
        client.send(post(b"Expect: 100-continue")[: -len(BODY)])
        assert (await client.answer()).status == 100
        client.send(BODY + GET)
        assert [(await client.answer()).status for _ in range(2)] == [201, 200]

    on_wire(act)


def test_client_of_http_1_0_is_not_told_to_continue() -> None:
    async def act(app: Running, client: RawClient) -> None:
        del app
        head = post(b"Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
        client.send(head[: -len(BODY)])
        await client.writer.drain()
        await asyncio.sleep(0.1)
        client.send(BODY)
        assert (await client.answer()).status == 201

    on_wire(act)


def test_client_that_is_refused_is_not_told_to_continue() -> None:
    async def act(app: Running, client: RawClient) -> None:
        del app
        head = post(b"Expect: 100-continue").replace(b"application/json", b"text/plain")
        client.send(head[: -len(BODY)])
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (415, "close")
        assert await client.is_closed()

    on_wire(act)


def test_refusal_before_the_body_leaves_the_connection_usable() -> None:
    async def act(app: Running, client: RawClient) -> None:
        del app
        whole = post().replace(b"application/json", b"text/plain")
        client.send(whole[: -len(BODY)])
        assert (await client.answer()).status == 415
        client.send(BODY + post())
        assert (await client.answer()).status == 201

    on_wire(act)


@pytest.mark.parametrize("offer", [(), (b"Connection: Upgrade", b"Upgrade: h2c")])
def test_trailers_are_no_headers_of_the_next_request(offer: tuple[bytes, ...]) -> None:
    async def act(app: Running, client: RawClient) -> None:
        del app
        trailers = b"X-Request-Id: of-a-trailer\r\nHost: y\r\nExpect: 100-continue\r\n\r\n"
        body = CHUNKED.removesuffix(b"\r\n") + trailers
        client.send(post(*offer, b"Transfer-Encoding: chunked", body=body) + post())
        assert (await client.answer()).status == 201
        answer = await client.answer()
        assert answer.status == 201
        assert answer.headers["x-request-id"] != "of-a-trailer"

    on_wire(act)


ENDLESS = {
    "trailers": b"0\r\n" + b"X: yes\r\n" * 500_000,
    "one trailer": b"0\r\nX: " + b"x" * 3_000_000,
    "a chunk's extension": b"1;" + b"x" * 3_000_000,
}


@pytest.mark.parametrize("body", ENDLESS.values(), ids=ENDLESS)
def test_framing_without_an_end_is_refused(body: bytes) -> None:
    async def act(app: Running, client: RawClient) -> None:
        del app
        client.send(post(b"Transfer-Encoding: chunked", body=body))
        answer = await client.answer()
        assert (answer.status, answer.code) == (413, "body_too_large")
        assert await client.is_closed()

    on_wire(act)


def test_connection_is_kept_unless_the_client_says_otherwise() -> None:
    async def act(app: Running, client: RawClient) -> None:
        del app
        for _ in range(3):
            client.send(GET)
            answer = await client.answer()
            assert "connection" not in answer.headers
        client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await client.answer()).headers["connection"] == "close"
        assert await client.is_closed()

    on_wire(act)


def test_client_of_http_1_0_is_answered_once() -> None:
    async def act(app: Running, client: RawClient) -> None:
        del app
        client.send(b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await client.is_closed()

    on_wire(act)


def test_every_answer_has_its_date() -> None:
    async def act(app: Running, client: RawClient) -> None:
        del app
        client.send(GET)
        date = (await client.answer()).headers["date"]
        assert date.endswith(" GMT")
        assert parsedate_to_datetime(date).year >= 2025

    on_wire(act)


def test_answers_without_a_body_do_not_shift_the_next_one() -> None:
    async def act(app: Running, client: RawClient) -> None:
        ticket = await app.create()
        path = f"/tickets/{ticket['id']}".encode()
        client.send(b"HEAD %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        client.send(b'GET %b HTTP/1.1\r\nHost: x\r\nIf-None-Match: "1"\r\n\r\n' % path)
        client.send(GET)
        head = await client.answer(to_head=True)
        assert (head.status, int(head.headers["content-length"]) > 100) == (200, True)
        unchanged = await client.answer()
        assert (unchanged.status, unchanged.headers["etag"]) == (304, '"1"')
        assert "content-length" not in unchanged.headers
        assert (await client.answer()).json() == {"status": "alive"}

    on_wire(act)


def test_head_without_an_end_is_refused() -> None:
    async def act(app: Running, client: RawClient) -> None:
        del app
        client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nCookie: ")
        for _ in range(20):
            client.send(b"x" * 8192)
        answer = await client.answer()
        assert (answer.status, answer.code) == (431, "headers_too_large")
        assert await client.is_closed()

    on_wire(act)

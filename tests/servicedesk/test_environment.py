"""Settings: what is malformed names its variable and what it accepts, and nothing is guessed."""

from collections.abc import Callable

import pytest

from servicedesk.environment import Address, Environment, SettingError

Read = Callable[[Environment], object]


def read(value: str) -> Environment:
    return Environment({"NAME": value})


MALFORMED: list[tuple[str, Read, str]] = [
    ("ten", lambda e: e.integer("NAME", 1, minimum=1, maximum=9), "a whole number from 1 to 9"),
    ("1.5", lambda e: e.integer("NAME", 1, minimum=1, maximum=9), "a whole number from 1 to 9"),
    ("10", lambda e: e.integer("NAME", 1, minimum=1, maximum=9), "a whole number from 1 to 9"),
    ("0", lambda e: e.integer("NAME", 1, minimum=1, maximum=9), "a whole number from 1 to 9"),
    ("٣", lambda e: e.integer("NAME", 1, minimum=1, maximum=9), "a whole number from 1 to 9"),
    ("9" * 5000, lambda e: e.integer("NAME", 1, minimum=1, maximum=9), "a whole number"),
    ("yes", lambda e: e.flag("NAME", default=False), "true or false"),
    ("trace", lambda e: e.choice("NAME", "info", ("info", "debug")), "one of info, debug"),
    ("log,sms", lambda e: e.choices("NAME", ("log",), ("log", "smtp")), "list of log, smtp"),
    ("log,", lambda e: e.choices("NAME", ("log",), ("log", "smtp")), "list of log, smtp"),
    ("10", lambda e: e.seconds("NAME", 1.0), "a duration such as 500ms, 30s, 5m or 24h"),
    ("-5s", lambda e: e.seconds("NAME", 1.0), "a duration such as"),
    ("٣s", lambda e: e.seconds("NAME", 1.0), "a duration such as"),
    ("10 s", lambda e: e.seconds("NAME", 1.0), "a duration such as"),
    ("0s", lambda e: e.seconds("NAME", 1.0), "from 0.001s"),
    ("2h", lambda e: e.seconds("NAME", 1.0, maximum=3600), "to 3600s"),
    ("localhost", lambda e: e.address("NAME", ""), "HOST:PORT, such as 127.0.0.1:8080"),
    ("localhost:http", lambda e: e.address("NAME", ""), "HOST:PORT"),
    ("localhost:65536", lambda e: e.address("NAME", ""), "HOST:PORT"),
    ("::1:8080", lambda e: e.address("NAME", ""), "HOST:PORT"),
    ("[]:8080", lambda e: e.address("NAME", ""), "HOST:PORT"),
    ("[localhost]:8080", lambda e: e.address("NAME", ""), "HOST:PORT"),
    ("http://localhost:8080", lambda e: e.address("NAME", ""), "HOST:PORT"),
    ("local host:8080", lambda e: e.address("NAME", ""), "HOST:PORT"),
    ("example.com", lambda e: e.url("NAME", ("http",), example="http://host"), "http://host"),
    ("ftp://host", lambda e: e.url("NAME", ("http",), example="http://host"), "http://host"),
    ("http://", lambda e: e.url("NAME", ("http",), example="http://host"), "http://host"),
    ("http://h:99999", lambda e: e.url("NAME", ("http",), example="http://host"), "http://host"),
    ("http://[::1", lambda e: e.url("NAME", ("http",), example="http://host"), "http://host"),
    ("postgresql://h:0/db", lambda e: e.url("NAME", ("postgresql",), example="x"), "malformed"),
    ("postgresql://h:5432x/db", lambda e: e.url("NAME", ("postgresql",), example="x"), "malformed"),
    (
        "postgresql://a:1,,c:3/db",
        lambda e: e.url("NAME", ("postgresql",), example="x"),
        "malformed",
    ),
    (
        "postgresql://a:1,b:99999/db",
        lambda e: e.url("NAME", ("postgresql",), example="x"),
        "malfor",
    ),
    (
        "postgresql://a:1,b:2/db",
        lambda e: e.url("NAME", ("postgresql",), example="x"),
        "add target_session_attrs=read-write",
    ),
    (
        "postgresql:///db?host=a,b&target_session_attrs=any",
        lambda e: e.url("NAME", ("postgresql",), example="x"),
        "add target_session_attrs=read-write",
    ),
    ("tickets events", lambda e: e.kafka_name("NAME", "x"), "letters, digits, dots"),
    ("заявки", lambda e: e.kafka_name("NAME", "x"), "letters, digits, dots"),
    ("..", lambda e: e.kafka_name("NAME", "x"), "letters, digits, dots"),
    ("x" * 250, lambda e: e.kafka_name("NAME", "x"), "up to 249"),
    ("kafka", lambda e: e.kafka_brokers("NAME"), "HOST:PORT"),
    ("kafka:9092,", lambda e: e.kafka_brokers("NAME"), "''; it takes HOST:PORT"),
    ("kafka:9092,http://x:1", lambda e: e.kafka_brokers("NAME"), "'http://x:1'; it takes"),
    ("kafka:٩٠٩٢", lambda e: e.kafka_brokers("NAME"), "HOST:PORT"),
    ("", lambda e: e.required("NAME", "a PostgreSQL URL"), "is not set; it takes a PostgreSQL URL"),
]


@pytest.mark.parametrize(("value", "take", "accepts"), MALFORMED)
def test_malformed_setting_names_the_variable_and_what_it_accepts(
    value: str, take: Read, accepts: str
) -> None:
    with pytest.raises(SettingError) as caught:
        take(read(value))
    text = str(caught.value)
    assert text.startswith("NAME ")
    assert accepts in text
    assert "\n" not in text


WELL_FORMED: list[tuple[str, Read, object]] = [
    ("-3", lambda e: e.integer("NAME", 1, minimum=-5, maximum=9), -3),
    ("007", lambda e: e.integer("NAME", 1, minimum=1, maximum=9), 7),
    ("TRUE", lambda e: e.flag("NAME", default=False), True),
    ("0", lambda e: e.flag("NAME", default=True), False),
    ("debug", lambda e: e.choice("NAME", "info", ("info", "debug")), "debug"),
    (
        " smtp , log,smtp",
        lambda e: e.choices("NAME", ("log",), ("log", "smtp")),
        ("smtp", "log"),
    ),
    ("500ms", lambda e: e.seconds("NAME", 1.0), 0.5),
    ("1.5s", lambda e: e.seconds("NAME", 1.0), 1.5),
    ("5m", lambda e: e.seconds("NAME", 1.0), 300.0),
    ("24h", lambda e: e.seconds("NAME", 1.0), 86_400.0),
    (":8080", lambda e: e.address("NAME", ""), Address("127.0.0.1", 8080)),
    ("0.0.0.0:0", lambda e: e.address("NAME", ""), Address("0.0.0.0", 0)),
    ("[::1]:8080", lambda e: e.address("NAME", ""), Address("::1", 8080)),
    ("my-host.example:80", lambda e: e.address("NAME", ""), Address("my-host.example", 80)),
    (
        "postgresql:///tickets?host=/run/postgresql",
        lambda e: e.url("NAME", ("postgresql",), example="x"),
        "postgresql:///tickets?host=/run/postgresql",
    ),
    *(
        (url, lambda e: e.url("NAME", ("postgresql",), example="x"), url)
        for url in (
            "postgresql://u:p@a:1,[::1]:2/db?target_session_attrs=read-write",
            "postgresql://a,b/db?target_session_attrs=primary",
            "postgresql://u:p@[::1]:5432/db",
        )
    ),
    ("tickets.events_v2-a", lambda e: e.kafka_name("NAME", "x"), "tickets.events_v2-a"),
    ("kafka-0:9092, [::1]:9092", lambda e: e.kafka_brokers("NAME"), "kafka-0:9092,[::1]:9092"),
    ("Анна", lambda e: e.text("NAME", "x"), "Анна"),
]


@pytest.mark.parametrize(("value", "take", "found"), WELL_FORMED)
def test_well_formed_setting_is_read(value: str, take: Read, found: object) -> None:
    assert take(read(value)) == found


@pytest.mark.parametrize("value", ["", "   "])
def test_empty_text_counts_as_not_set(value: str) -> None:
    environment = read(value)
    assert environment.optional("NAME") is None
    assert environment.text("NAME", "x") == "x"
    assert environment.integer("NAME", 7, minimum=1, maximum=9) == 7
    assert environment.flag("NAME", default=True) is True
    assert environment.choice("NAME", "a", ("a", "b")) == "a"
    assert environment.choices("NAME", ("a",), ("a", "b")) == ("a",)
    assert environment.seconds("NAME", 2.5) == 2.5
    assert environment.address("NAME", "[::]:80") == Address("::", 80)
    assert environment.url("NAME", ("http",), example="x") is None
    assert environment.kafka_name("NAME", "topic") == "topic"
    assert environment.kafka_brokers("NAME") is None


@pytest.mark.parametrize(
    "url",
    [
        "postgress://anna:hunter2@host/db",
        "postgresql://anna:hunter2 x@host/db",
        "postgresql://anna:hunter2%zz@host/db",
        "postgresql://anna:hunter2%00@host/db",
        "postgresql://anna:hunter2@host/db?nonsense=1",
        "postgresql://anna:1@hunter2@host/db",
        "postgresql://anna:hunter2@one,two/db",
        "postgresql://anna:hunter2@one:1,two:x/db?target_session_attrs=read-write",
    ],
)
def test_malformed_url_keeps_its_password_to_itself(url: str) -> None:
    with pytest.raises(SettingError) as caught:
        read(url).url("NAME", ("postgresql",), example="x://y")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("0:0:0:0:0:0:0:1", True),
        ("localhost", True),
        ("127.example.com", False),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
    ],
)
def test_only_loopback_addresses_count_as_loopback(host: str, *, loopback: bool) -> None:
    assert Address(host, 80).is_loopback is loopback


def test_address_is_written_as_it_is_read() -> None:
    for text in ("127.0.0.1:8080", "[::1]:8080", "host:1"):
        assert str(read(text).address("NAME", "")) == text


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("localhost:80", "127.0.0.1:80", True),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("host:80", "[::]:80", True),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
    ],
)
def test_addresses_overlap_when_one_socket_takes_both(
    one: str, other: str, *, overlap: bool
) -> None:
    first, second = read(one).address("NAME", ""), read(other).address("NAME", "")
    assert first.overlaps(second) is overlap
    assert second.overlaps(first) is overlap

"""Scenario 8: an event that Kafka always refuses, one that every receiver refuses, and one receiver
of ten that takes connections and never answers. Nobody else is to notice.

Rounds without these faults and rounds with them take turns under one steady load. Compared is the
time from a commit to its deliveries, of all other tickets at all other receivers.
"""

import contextlib
import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from bench.percentiles import percentile
from deploy.local.apache import ApacheKafka
from deploy.local.loopback import send
from tests.faults.meanwhile import ENDLESS, BackgroundLoad
from tests.faults.scenario import Scenario
from tests.pipeline.pipeline import Pipeline
from tests.support.checker import Accepted
from tests.support.processes import Daemon, wait_until
from tests.support.webhooks import WebhookReceiver

pytestmark = [pytest.mark.kafka, pytest.mark.pipeline, pytest.mark.timeout(600)]

RECEIVERS = 10
HANGING = "r9"
TIMEOUT_SECONDS = 3.0
# Beside the wait without the faults and a quarter more: what a busy machine adds now and then.
ALLOWANCE_MS = 50.0
# In a few seconds a wait is what one stall makes of it.
SHORT_ALLOWANCE_MS = 250.0
SETTINGS = {
    # As it is run: refused again and again in a moment, two keys would be a load of their own.
    "RELAYD_RETRY_BASE": "250ms",
    "RELAYD_RETRY_CAP": "2s",
    "NOTIFYD_RETRY_BASE": "250ms",
    "NOTIFYD_RETRY_CAP": "2s",
    # Nothing is given up: once the faults are over, everything has to arrive.
    "RELAYD_MAX_ATTEMPTS": "1000",
    "NOTIFYD_MAX_ATTEMPTS": "1000",
    "NOTIFYD_LEASE": "10s",
    "NOTIFYD_WEBHOOK_TIMEOUT": f"{TIMEOUT_SECONDS:g}s",
}
# Bytes of a batch that the topic takes while it is poisoned; others' events are far smaller.
TOPIC_BYTES = 8_000
WIDE_BYTES = 1_000_000
# 5,000 different characters of four bytes, which no compression makes small.
HUGE = "".join(chr(0x1F300 + 97 * n % 20_011) for n in range(5_000))
STALE = """
SELECT (SELECT count(*) FROM outbox WHERE created_at < now() - interval '1 second')
     + (SELECT count(*) FROM delivery WHERE created_at < now() - interval '1 second')
"""
MERGE_PATCH = {"Content-Type": "application/merge-patch+json", "If-Match": "*"}


class Faults:
    """What is wrong while `are_on`."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._over.set()
        self.poisoned: set[str] = set()
        self.hung = 0

    @property
    def are_on(self) -> bool:
        return not self._over.is_set()

    def begin(self) -> None:
        self._over.clear()

    def end(self) -> None:
        self._over.set()

    def answer(self, envelope: dict[str, Any]) -> int:
        """Of the nine receivers."""
        return 422 if self.are_on and envelope["aggregate_id"] in self.poisoned else 200

    def hang(self, envelope: dict[str, Any]) -> int:
        """Of the tenth: no answer for as long as they are on, and none that counts afterwards."""
        if not self.are_on:
            return 200
        self.hung += 1
        self._over.wait()
        return 503


class Poison:
    """Two tickets that go on changing: one is refused by every receiver, the other one is too large
    for the topic."""

    def __init__(self, pipeline: Pipeline, ticketd: Daemon, faults: Faults) -> None:
        self._ticketd = ticketd
        self._topic = pipeline.environment["KAFKA_TOPIC"]
        brokers = pipeline.environment["KAFKA_BROKERS"]
        self._admin = AdminClient({"bootstrap.servers": brokers, "log_level": 0})
        self.accepted: list[Accepted] = []
        body = {"title": "Яд", "requester": "нагрузка@example.org"}
        self.refused = self._send("POST", "/tickets", body)
        self.huge = self._send("POST", "/tickets", {**body, "description": HUGE})
        faults.poisoned.add(self.refused)

    def change(self) -> None:
        for ticket in (self.refused, self.huge):
            self._send("PATCH", f"/tickets/{ticket}", {"title": f"Яд {len(self.accepted)}"})

    def limit_topic(self, most: int) -> None:
        """Takes effect a moment later."""
        limit = ConfigEntry(
            "max.message.bytes", str(most), incremental_operation=AlterConfigOpType.SET
        )
        topic = ConfigResource(ResourceType.TOPIC, self._topic, incremental_configs=[limit])
        self._admin.incremental_alter_configs([topic])[topic].result(10)

    def _send(self, method: str, path: str, body: dict[str, str]) -> str:
        headers = {"Content-Type": "application/json"} if method == "POST" else MERGE_PATCH
        answer = send(method, self._ticketd.url + path, orjson.dumps(body), headers)
        assert answer.status in {200, 201}, answer
        ticket = orjson.loads(answer.body)
        self.accepted.append((ticket["id"], ticket["version"]))
        return str(ticket["id"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Times of the day."""

    begun: float
    ended: float

    def waits_ms(self, receivers: list[WebhookReceiver], without: set[str]) -> list[float]:
        """From commit to delivery of what was committed in it, sorted."""
        found = [
            1000 * each.seconds
            for receiver in receivers
            for each in receiver.deliveries
            if self.begun <= each.committed_at <= self.ended and each.ticket not in without
        ]
        assert found, "nothing was committed meanwhile"
        return sorted(found)


class Scene:
    """The load, and rounds of it with and without the faults."""

    def __init__(
        self, pipeline: Pipeline, load: BackgroundLoad, faults: Faults, poison: Poison
    ) -> None:
        self._pipeline = pipeline
        self._load = load
        self._faults = faults
        self._poison = poison

    def calm(self, seconds: float) -> Window:
        begun = time.time()
        self._load.goes_on_for(seconds)
        return Window(begun=begun, ended=time.time())

    def faulty(self, seconds: float) -> Window:
        """Returns once everything that was held up has caught up."""
        self._poison.limit_topic(TOPIC_BYTES)
        self._faults.begin()
        begun = time.time()
        while time.time() < begun + seconds:
            self._poison.change()
            self._load.goes_on_for(0.5)
        ended = time.time()
        self._faults.end()
        self._poison.limit_topic(WIDE_BYTES)
        wait_until(lambda: self._pipeline.count(STALE) == 0, 60, self._pipeline.state)
        return Window(begun=begun, ended=ended)


def typical(windows: list[list[float]], share: float) -> float:
    """The median over the windows of the wait that this share of the deliveries had at most."""
    return statistics.median(percentile(each, share) for each in windows)


def test_poisoned_keys_and_a_hanging_receiver(
    database_url: str,
    apache_kafka: ApacheKafka,
    unique_name: str,
    tmp_path: Path,
    scenario: Scenario,
) -> None:
    faults = Faults()
    with contextlib.ExitStack() as stack:
        receivers = {
            f"r{number}": stack.enter_context(WebhookReceiver(faults.answer))
            for number in range(RECEIVERS)
        }
        receivers[HANGING].status = faults.hang
        stack.callback(faults.end)
        pipeline = stack.enter_context(
            Pipeline(
                database_url=database_url,
                kafka_brokers=apache_kafka.bootstrap_servers,
                name=unique_name,
                receivers=receivers,
                directory=tmp_path,
                settings=SETTINGS,
            )
        )
        ticketd, relayd, notifyd = pipeline.start("ticketd", "relayd", "notifyd")
        poison = Poison(pipeline, ticketd, faults)
        # Ten deliveries each: what fills the machine measures the machine.
        rate = scenario.pick(short=30.0, full=25.0)
        load = BackgroundLoad(pipeline, ticketd, tickets=ENDLESS, events=2, rate=rate)
        wait_until(receivers[HANGING].has_taken(100), 30, "the first deliveries")

        scene = Scene(pipeline, load, faults, poison)
        seconds = scenario.pick(short=(3.0, 6.0), full=(40.0, 40.0))
        calm, faulty = [], []
        for _ in range(scenario.pick(short=2, full=3)):
            calm.append(scene.calm(seconds[0]))
            faulty.append(scene.faulty(seconds[1]))
        load.stop()
        found = load.finish(30)
        assert (found.refused, found.broken) == ([], 0)
        accepted = found.accepted + poison.accepted
        for name in receivers:
            pipeline.wait_delivered(name, len(accepted), 60)
        pipeline.wait_empty(30)
        verdict = pipeline.judge(accepted, "r0")
        assert pipeline.judge(accepted, HANGING).broken_promises == {}

    others = [receiver for name, receiver in receivers.items() if name != HANGING]
    poisoned = {poison.refused, poison.huge}
    without = [window.waits_ms(others, poisoned) for window in calm]
    with_faults = [window.waits_ms(others, poisoned) for window in faulty]
    refused_by_kafka = rejections(relayd, poison.huge)
    refused_by_receivers = rejections(notifyd, poison.refused)
    circuits = [each for each in notifyd.events("circuit_opened") if HANGING in each["receiver"]]
    # Each fault was there in each of the rounds.
    assert min(refused_by_kafka, refused_by_receivers) >= len(faulty)
    assert len(circuits) >= len(faulty)
    scenario.conclude(
        8,
        "two poisoned keys, and one receiver of ten that hangs",
        verdict,
        {
            "rounds": len(faulty),
            "tickets": len({ticket for ticket, _ in accepted}),
            "refusals by Kafka": refused_by_kafka,
            "refusals by receivers": refused_by_receivers,
            "requests that hung": faults.hung,
            "circuit opened": len(circuits),
            "p99 of the others without, ms": round(typical(without, 0.99)),
            "p99 of the others with, ms": round(typical(with_faults, 0.99)),
            "others that waited for as long as the time-out": sum(
                each >= 1000 * TIMEOUT_SECONDS for window in with_faults for each in window
            ),
        },
    )
    # In a few seconds, p99 is what one stall of a busy machine makes of it.
    share = scenario.pick(short=0.5, full=0.99)
    allowance = scenario.pick(short=SHORT_ALLOWANCE_MS, full=ALLOWANCE_MS)
    assert typical(with_faults, share) <= 1.25 * typical(without, share) + allowance


def rejections(daemon: Daemon, ticket: str) -> int:
    return sum(ticket in event["key"] for event in daemon.events("row_rejected"))

"""Scenario 9: the network between the broker and both daemons is slow, resets connections, cuts
requests in their middle, swallows everything for a while, and forgets connections."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.percentiles import percentile
from deploy.local.ports import free_port
from tests.conftest import CreateCluster
from tests.faults.meanwhile import (
    BackgroundLoad,
    has_caught_up,
    judged,
    seconds_until,
    steady_load,
    waits,
)
from tests.faults.scenario import Scenario
from tests.pipeline.pipeline import QUICK, Pipeline
from tests.support.processes import wait_until
from tests.support.tcp_proxy import TcpProxy
from tests.support.webhooks import WebhookReceiver

pytestmark = [pytest.mark.kafka, pytest.mark.pipeline, pytest.mark.timeout(600)]

# Far below the minute after which librdkafka by itself gives a silent connection up.
MOST_RECOVERY_SECONDS = 45.0
FRESH_SECONDS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What can be done to it for so many seconds, beside a load."""

    proxy: TcpProxy
    load: BackgroundLoad
    seconds: int

    def slow(self) -> None:
        self.proxy.delay(0.1, 0.2)
        self.load.goes_on_for(self.seconds)
        self.proxy.delay(0.0, 0.0)

    def reset_every_second(self) -> None:
        self._every_second(self.proxy.reset_all)

    def cut_every_second(self) -> None:
        self._every_second(self.proxy.cut_all)

    def black_hole(self) -> None:
        self.proxy.hold()
        self.load.goes_on_for(self.seconds)
        self.proxy.release()

    def half_open(self) -> None:
        self.proxy.forsake_all()
        self.load.goes_on_for(self.seconds)

    def _every_second(self, act: Callable[[], None]) -> None:
        for _ in range(self.seconds):
            act()
            self.load.goes_on_for(1.0)


def flows(pipeline: Pipeline, receiver: WebhookReceiver) -> bool:
    """Events arrive soon after their commit, and none waits."""
    age = time.time() - receiver.deliveries[-1].committed_at
    return age < FRESH_SECONDS and has_caught_up(pipeline)


def test_network_slow_resetting_cutting_and_silent(
    database_url: str,
    create_cluster: CreateCluster,
    unique_name: str,
    tmp_path: Path,
    scenario: Scenario,
) -> None:
    seconds = scenario.pick(short=4, full=20)
    assert seconds > float(QUICK["RELAYD_DELIVERY_TIMEOUT"].removesuffix("s"))
    broker_port = free_port()
    with TcpProxy(free_port([broker_port]), broker_port) as proxy:
        cluster = create_cluster(ports=[broker_port], advertised=[proxy.port])
        with (
            WebhookReceiver() as receiver,
            Pipeline(
                database_url=database_url,
                kafka_brokers=cluster.bootstrap_servers,
                name=unique_name,
                receivers={"sink": receiver},
                directory=tmp_path,
                settings={"RELAYD_MAX_ATTEMPTS": "1"},
            ) as pipeline,
        ):
            ticketd, relayd, notifyd = pipeline.start("ticketd", "relayd", "notifyd")
            load = steady_load(pipeline, ticketd, rate=100)
            wait_until(receiver.has_taken(100), 30, "the first deliveries")
            network = Network(proxy=proxy, load=load, seconds=seconds)
            figures: dict[str, float] = {}
            windows: dict[str, tuple[float, float]] = {}
            for name, spoil in {
                "slow": network.slow,
                "reset": network.reset_every_second,
                "cut": network.cut_every_second,
                "black hole": network.black_hole,
                "half open": network.half_open,
            }.items():
                begun = time.time()
                spoil()
                windows[name] = (begun, time.time())
                figures[f"{name}: well again after seconds"] = seconds_until(
                    lambda: flows(pipeline, receiver), MOST_RECOVERY_SECONDS, f"end of {name}"
                )
            verdict = judged(pipeline, load, "sink", 120)
            for name, window in windows.items():
                found = percentile(waits(receiver.deliveries, *window), 0.99)
                figures[f"{name}: p99 seconds of events meanwhile"] = round(found, 2)
            assert proxy.resets >= seconds
            assert proxy.cuts >= seconds
            assert proxy.forsaken >= 2
            assert relayd.events("circuit_opened")
            assert relayd.events("row_rejected") == []
            wait_until(notifyd.is_ready, 15, "notifyd that is ready again")
            scenario.conclude(
                9,
                "broker behind a network that is slow, resets, cuts, swallows and forgets",
                verdict,
                {
                    "each for seconds": seconds,
                    "connections reset": proxy.resets,
                    "requests cut": proxy.cuts,
                    "connections forgotten": proxy.forsaken,
                    **figures,
                },
            )
        cluster.kill()

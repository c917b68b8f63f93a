"""What the load generators say, as figures."""

import re

import pytest

from bench.capacity import GeneratorError, parse_wrk, run_bounded
from bench.exposition import batches, hit_share
from bench.open_load import parse_open
from bench.pgbench import CREATE_VALUES, create_script, parse_pgbench
from ticketd.batches import CREATE

REPORT = """transaction type: pgbench.sql
number of transactions actually processed: 1000
number of failed transactions: 0 (0.000%)
tps = 500.000000 (without initial connection time)
"""


def test_wrk_gives_milliseconds_and_only_the_errors_that_happened() -> None:
    output = (
        b'{"requests":900,"microseconds":3000000,"connect":0,"read":0,"write":0,"status":300,'
        b'"timeout":0,"p50":1500.0,"p90":2000.0,"p99":9000.0,"p999":9500.0,"maximum":9900.0}'
    )
    found = parse_wrk(output, 0.5)
    assert found.rate == 200.0
    assert found.errors == {"status": 300}
    assert found.latency is not None
    assert (found.latency.p50, found.latency.p99) == (1.5, 9.0)


def test_open_model_counts_refusals_apart_from_goodput() -> None:
    output = (
        b'{"seconds":2,"requests":1000,"errors":{"503":400,"failed":0},"dropped":7,"latency_ms":'
        b'{"p50":1,"p90":2,"p99":3,"p999":4,"maximum":5}}'
    )
    found = parse_open(output, "k6", 900, 0.5)
    assert (found.rate, found.errors, found.dropped, found.offered) == (300.0, {"503": 400}, 7, 900)


def test_pgbench_rate_and_sampled_latency() -> None:
    found = parse_pgbench(REPORT, ["0 1 1500 0 1700000000 1", "0 2 2500 0 1700000000 2", ""], 0.1)
    assert (found.rate, found.requests) == (500.0, 1000)
    assert found.latency is not None
    assert found.latency.maximum == 2.5


def test_pgbench_without_transactions_is_an_error() -> None:
    with pytest.raises(GeneratorError, match="no transactions"):
        parse_pgbench("pgbench: error", [], 0.0)


def test_pgbench_runs_the_statement_of_the_store() -> None:
    script = create_script(CREATE.text)
    assert "$" not in script
    assert "ON CONFLICT (id) DO NOTHING" in script
    # A colon anywhere else would be taken for a variable.
    assert set(re.findall(r"(?<!:):([a-z0-9_]+)", script)) == {"number", "bucket"}


def test_statement_that_has_changed_is_noticed() -> None:
    with pytest.raises(ValueError, match=f"{len(CREATE_VALUES)} values are known"):
        create_script("INSERT INTO tickets VALUES ($1, $2)")


def test_batches_are_the_mean_since_the_text_before() -> None:
    before = (
        'ticketd_batch_rows_sum{lane="create"} 100\nticketd_batch_rows_count{lane="create"} 50\n'
    )
    after = (
        'ticketd_batch_rows_sum{lane="create"} 1300\nticketd_batch_rows_count{lane="create"} 150\n'
        "ticketd_http_request_duration_seconds_sum 5.0\nticketd_batch_idle_count 0\n"
    )
    assert batches(before, after) == {'ticketd_batch_rows{lane="create"}': 12.0}


def test_generator_that_fails_is_told_with_its_last_words() -> None:
    with pytest.raises(GeneratorError, match=r"exit code 3: no luck"):
        run_bounded(["sh", "-c", "echo no luck >&2; exit 3"], {"PATH": "/usr/bin:/bin"}, 10)


def test_share_of_hits_is_of_the_reads_since_the_text_before() -> None:
    before = 'ticketd_cache_reads_total{outcome="hit"} 5.0\n'
    after = (
        'ticketd_cache_reads_total{outcome="hit"} 35.0\n'
        'ticketd_cache_reads_total{outcome="miss"} 8.0\n'
        'ticketd_cache_reads_total{outcome="bypass"} 2.0\n'
    )
    assert hit_share(before, after) == 0.75
    assert hit_share(after, after) is None

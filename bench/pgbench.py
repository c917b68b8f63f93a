"""What the database does alone: pgbench with ticketd's own single-row statement, without HTTP.

The statement is the store's, so it cannot drift; pgbench's clients send nothing but the values.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bench.capacity import GeneratorError, run_bounded
from bench.percentiles import latency_of
from bench.result import Figures

CLIENTS = 32
SAMPLED = 0.1
PARAMETER = re.compile(r"\$(\d+)")

HEADERS = (
    '{"request_id":"0f8b2c1d4e5f60718293a4b5c6d7e8f9",'
    '"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"}'
)
DESCRIPTION = (
    "Горит красная лампа, в лотке есть бумага. Перезапуск не помог, драйвер обновлён вчера. "
    "Отдел закупок, третий этаж, кабинет 314; звонить до шести вечера."
)
PAYLOAD = (
    '{"id":"019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10","title":"Не печатает принтер № 0000101000000001",'
    f'"description":"{DESCRIPTION}","status":"new","priority":"high",'
    '"requester":"анна.петрова@example.org","assignee":null,"version":1,'
    '"created_at":"2026-01-15T08:00:00.123000Z","updated_at":"2026-01-15T08:00:00.123000Z",'
    '"closed_at":null}'
)


def literal(text: str) -> str:
    """An SQL literal without a colon, which pgbench would take for the start of a variable."""
    escaped = text.replace("\\", "\\\\").replace("'", "''").replace(":", "\\x3a")
    return f"E'{escaped}'"


ORDERED_ID, RANDOM_ID = "uuidv7()", "gen_random_uuid()"
# One expression for each parameter of the statement, in its order.
CREATE_VALUES = (
    ORDERED_ID, "'Не печатает принтер № ' || :number", literal(DESCRIPTION), "'high'",
    "'анна.петрова@example.org'", "NULL", "now()",
    ":bucket", ORDERED_ID, "'ticket.created'", literal(HEADERS), literal(PAYLOAD),
)  # fmt: skip


def create_script(statement: str, new_id: str = ORDERED_ID) -> str:
    """The script of a CREATE statement with $1, $2, … Raises ValueError when there are not as many
    of them as values."""
    numbers = {int(number) for number in PARAMETER.findall(statement)}
    if numbers != set(range(1, len(CREATE_VALUES) + 1)):
        raise ValueError(
            f"the statement has the parameters {sorted(numbers)}, "
            f"{len(CREATE_VALUES)} values are known here"
        )
    values = [new_id if value == ORDERED_ID else value for value in CREATE_VALUES]
    filled = PARAMETER.sub(lambda match: f"({values[int(match[1]) - 1]})", statement.strip())
    lines = ("\\set number random(1, 1000000000)", "\\set bucket random(0, 63)", filled + ";")
    return "\n".join(lines) + "\n"


# \\gset keeps the id for the second statement.
TRANSACTION = """\\set number random(1, 1000000000)
\\set bucket random(0, 63)
BEGIN;
INSERT INTO tickets (id, title, description, priority, requester, assignee, created_at,
    status, version, updated_at, closed_at)
VALUES (%s, 'new', 1, now(), NULL) RETURNING id AS ticket \\gset
INSERT INTO outbox (bucket, event_id, event_type, headers, payload, aggregate_id, sequence)
VALUES (%s, :ticket::uuid, 1);
COMMIT;
"""


def transaction_script() -> str:
    """The same rows by two INSERTs in one transaction, as a client without CTEs writes them."""
    return TRANSACTION % (", ".join(CREATE_VALUES[:7]), ", ".join(CREATE_VALUES[7:]))


class Pgbench:
    """Runs the pgbench beside the server's programs; `folder` is for its script and its log.
    `script` is what `create_script` makes."""

    def __init__(self, program: Path, folder: Path, url: str, script: str, jobs: int) -> None:
        self._program = program
        self._folder = folder
        self._url = urlsplit(url)
        self._jobs = jobs
        self._script = folder / f"{self._url.path.removeprefix('/')}.sql"
        self._script.write_text(script)

    def load(self, seconds: float) -> Figures:
        """Raises GeneratorError."""
        for old in self._folder.glob("pgbench_log.*"):
            old.unlink()
        whole = max(1, round(seconds))
        command = [
            str(self._program), "--no-vacuum", "--protocol=prepared", f"--client={CLIENTS}",
            f"--jobs={self._jobs}", f"--time={whole}", f"--file={self._script}", "--log",
            f"--log-prefix={self._folder / 'pgbench_log'}", f"--sampling-rate={SAMPLED}",
            f"--host={self._url.hostname}", f"--port={self._url.port}",
            f"--username={self._url.username}", self._url.path.removeprefix("/"),
        ]  # fmt: skip
        environment = {
            "PATH": os.defpath,
            "LC_ALL": "C.UTF-8",
            "PGPASSWORD": unquote(self._url.password or ""),
        }
        output = self._folder / "pgbench.out"
        cpu_seconds = run_bounded(command, environment, whole + 30, output)
        lines = [
            line
            for log in self._folder.glob("pgbench_log.*")
            for line in log.read_text().split("\n")
        ]
        return parse_pgbench(output.read_text(), lines, cpu_seconds)


def parse_pgbench(report: str, log: Iterable[str], cpu_seconds: float) -> Figures:
    """From pgbench's report and its sampled log, whose third column is microseconds. Raises
    GeneratorError."""
    done = re.search(r"transactions actually processed: (\d+)", report)
    rate = re.search(r"^tps = ([\d.]+)", report, re.MULTILINE)
    failed = re.search(r"number of failed transactions: (\d+)", report)
    if done is None or rate is None:
        raise GeneratorError(f"pgbench reports no transactions: {report[-500:]}")
    failures = int(failed[1]) if failed else 0
    return Figures(
        generator="pgbench",
        seconds=int(done[1]) / float(rate[1]),
        requests=int(done[1]) + failures,
        errors={"failed": failures} if failures else {},
        latency=latency_of([int(line.split()[2]) / 1000 for line in log if line]),
        generator_cpu_seconds=cpu_seconds,
    )

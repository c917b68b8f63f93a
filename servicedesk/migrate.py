"""Applies sql/NNNN_name.sql in order: `python -m servicedesk.migrate`.

Forward only, one transaction a file, under an advisory lock, so two at once are safe. A file that
was changed after it was applied is refused.
"""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from servicedesk.database import MIGRATIONS
from servicedesk.environment import Environment, SettingError

FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
# Any constant that no other program on the database uses.
ADVISORY_LOCK = 0x5E12_71CE_DE5C
LOCK_TIMEOUT = "10s"

CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migration (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


class MigrationError(Exception):
    """The migrations and the database do not agree; the text says where and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    version: int
    name: str
    checksum: str
    statements: str


def read_migrations(folder: Path) -> list[Migration]:
    """The files of a folder in order of their numbers, which run 1, 2, 3 without a gap.

    Raises MigrationError, also when there is none: that is a wrong folder, not an empty schema.
    """
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name} is not named NNNN_name.sql")
        content = path.read_bytes()
        found.append(
            Migration(
                version=int(match[1]),
                name=path.name,
                checksum=hashlib.sha256(content).hexdigest(),
                statements=content.decode(),
            )
        )
    if not found:
        raise MigrationError(f"there are no migrations in {folder}")
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise MigrationError(f"the numbers of the files in {folder} have a gap or a repeat")
    return found


def migrate(
    url: str, migrations: Sequence[Migration], *, report: Callable[[str], None] = print
) -> int:
    """Apply what is missing and return how many files were applied.

    Raises MigrationError, or psycopg.Error with nothing of the failing file applied; the files
    before it stay applied, and the next run goes on from there.
    """
    with psycopg.connect(url, autocommit=True, application_name="migrate") as connection:
        # Held by the session until it closes; a second migrate waits here and then finds nothing
        # to do. The lock time-out below is set after it, so that waiting is allowed.
        connection.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
        connection.execute(CREATE_TABLE)
        # A migration that cannot get its table lock gives up: waiting, it would hold up everyone
        # who comes after it.
        connection.execute("SELECT set_config('lock_timeout', %s, false)", (LOCK_TIMEOUT,))
        rows = connection.execute("SELECT version, name, checksum FROM schema_migration").fetchall()
        applied = {version: (name, checksum) for version, name, checksum in rows}
        missing = [m for m in migrations if _is_missing(m, applied)]
        for migration in missing:
            _apply(connection, migration)
            report(f"applied {migration.name}")
        newest = max([m.version for m in migrations] + list(applied), default=0)
        report(f"schema is at version {newest}" + ("" if missing else ", nothing to do"))
        return len(missing)


def _is_missing(migration: Migration, applied: Mapping[int, tuple[str, str]]) -> bool:
    if migration.version not in applied:
        return True
    name, checksum = applied[migration.version]
    if checksum != migration.checksum:
        raise MigrationError(
            f"{name} was changed after it was applied to this database; "
            "restore the file and write the change as a new migration"
        )
    return False


def _apply(connection: psycopg.Connection[tuple[object, ...]], migration: Migration) -> None:
    with connection.transaction():
        # Without parameters a string of many statements goes to the server as it is.
        connection.execute(migration.statements.encode())
        connection.execute(
            "INSERT INTO schema_migration (version, name, checksum) VALUES (%s, %s, %s)",
            (migration.version, migration.name, migration.checksum),
        )


def main() -> int:
    """The exit code: 0 when the schema is at its newest, 1 when not, 2 for a wrong setting."""
    try:
        migrate(_database_url(Environment(os.environ)), read_migrations(MIGRATIONS))
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (MigrationError, psycopg.Error) as error:
        # One line: psycopg tells every address it tried on a line of its own.
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _database_url(environment: Environment) -> str:
    # Checked here, because libpq repeats a malformed one in its error, with the password.
    example = "postgresql://user:password@host:5432/database"
    url = environment.url("DATABASE_URL", ("postgresql", "postgres"), example=example)
    return url or environment.required("DATABASE_URL", f"a URL such as {example}")


if __name__ == "__main__":
    sys.exit(main())

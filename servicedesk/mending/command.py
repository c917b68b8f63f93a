"""The command line that shows a queue and mends it: one line in, an exit code out.

Every act is safe while daemons run, says what it did, is noted in the history in its own
transaction, and can be interrupted and repeated.
"""

import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import psycopg

from servicedesk.mending.act_store import Author
from servicedesk.mending.acts import DONE, NOTHING_FOUND, redrive, retry, skip
from servicedesk.mending.from_topic import FromTopic
from servicedesk.mending.letter import LetterTopic
from servicedesk.mending.lists import print_dead, print_history, print_parked, print_status
from servicedesk.mending.options import ACTS, COMMANDS, Options, read_options
from servicedesk.mending.parked_store import ParkedStore
from servicedesk.mending.progress import Progress
from servicedesk.mending.redrive_store import RedriveStore
from servicedesk.mending.store import Connection, MendingStore
from servicedesk.mending.topic import TopicError, TopicReading
from servicedesk.queue.tables import QueueTables

# What a shell tells of programs that SIGINT and SIGPIPE ended.
INTERRUPTED, READER_GONE = 130, 141


def mend(
    arguments: Sequence[str],
    *,
    program: str,
    tables: QueueTables,
    database_url: Callable[[], str],
    letters: Callable[[], LetterTopic] | None = None,
    commands: Sequence[str] = COMMANDS,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> int:
    """Carry out one command line and return the exit code.

    `database_url` and `letters`, the dead letter topic, are asked after the usage was found right.
    Raises SystemExit on a wrong usage.
    """
    options = read_options(
        arguments,
        program=program,
        tables=tables,
        commands=commands,
        has_topic=letters is not None,
        now=now,
    )
    progress = Progress(sys.stderr, options.command, bar=not options.dry_run)
    try:
        with _connect(database_url(), tables) as connection:
            code = _carry_out(options, connection, tables, letters, progress)
        sys.stdout.flush()
    except KeyboardInterrupt:
        progress.end()
        print(f"interrupted at {progress}; what is done stays done, and the same command goes on",
              file=sys.stderr)  # fmt: skip
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; the rest must not fail at the exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except (psycopg.Error, TopicError) as error:
        progress.end()
        print(f"error: {_reason(error, tables)}", file=sys.stderr)
        return NOTHING_FOUND
    return code


def _connect(url: str, tables: QueueTables) -> Connection:
    return psycopg.connect(
        url,
        autocommit=True,
        application_name=f"mend {tables.name}",
        connect_timeout=5,
        client_encoding="UTF8",
        # A plan for the selection that was made, not one for any.
        prepare_threshold=None,
    )


def _reason(error: Exception, tables: QueueTables) -> str:
    if isinstance(error, psycopg.errors.UndefinedTable):
        return f"a table of {tables.name} is missing; run: python -m servicedesk.migrate"
    # One line: psycopg tells every address it tried on a line of its own.
    return " ".join(str(error).split())


def _carry_out(
    options: Options,
    connection: Connection,
    tables: QueueTables,
    letters: Callable[[], LetterTopic] | None,
    progress: Progress,
) -> int:
    store = MendingStore(connection, tables)
    if options.command not in ACTS:
        _show(options, store, tables)
        return DONE
    author = Author(operator=options.operator, selection=options.given)
    if options.command == "redrive":
        acts = RedriveStore(connection, tables, author)
        if options.from_topic and letters is not None:
            return _redrive_letters(options, acts, letters(), progress)
        return redrive(options, store, acts, progress)
    act = retry if options.command == "retry" else skip
    return act(options, store, ParkedStore(connection, tables, author), progress)


def _redrive_letters(
    options: Options, acts: RedriveStore, topic: LetterTopic, progress: Progress
) -> int:
    with TopicReading(topic) as reading:
        work = FromTopic(
            options=options, acts=acts, reading=reading, read=topic.read, progress=progress
        )
        return work.redrive()


def _show(options: Options, store: MendingStore, tables: QueueTables) -> None:
    chosen = "" if options.selection.is_everything else " are selected"
    match options.command:
        case "status":
            print_status(tables, store.buckets(), store.totals())
        case "parked":
            parked = store.parked(options.selection, options.limit)
            print_parked(parked) if parked else print(f"no parked keys{chosen}")
        case "dead":
            dead = store.dead(options.selection, options.limit)
            print_dead(dead) if dead else print(f"no dead rows{chosen}")
        case "history":
            mended = store.history(options.selection, options.limit)
            print_history(mended) if mended else print(f"no mended rows{chosen}")

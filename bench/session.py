"""What every bench does around its measuring: a folder, progress, the table, the result file."""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.progress import Progress
from bench.result import Result, write_result


def run_session(
    measure: Callable[[Path, Progress], Result],
    *,
    table: Callable[[Result], str],
    results: Path | None,
    failures: tuple[type[Exception], ...],
) -> int:
    """The exit code. `failures` are told in one line; without `results` no file is written."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    progress = Progress(sys.stderr)
    # Root's PostgreSQL runs as `nobody`, so the folder is open for passing through.
    folder = Path(tempfile.mkdtemp(prefix="servicedesk-bench-"))
    folder.chmod(0o711)
    try:
        result = measure(folder, progress)
    except failures as error:
        progress.end()
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        progress.end()
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    progress.end()
    print(table(result))
    for name, reason in result.left_out.items():
        print(f"left out: {name}: {reason}")
    if results is not None:
        print(f"result: {os.path.relpath(write_result(result, results))}")
    return 0

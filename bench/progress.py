"""What a run says while it goes on: one line that is written over, or plain lines in a log file."""

from typing import TextIO


class Progress:
    """Says how many of `total` steps are done; each step is said twice, at its start and end."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_terminal = out.isatty()

    def say(self, line: str) -> None:
        if self._is_terminal:
            self._out.write(f"\r\x1b[2K{line[:100]}")
        else:
            self._out.write(f"{line}\n")
        self._out.flush()

    def end(self) -> None:
        if self._is_terminal:
            self._out.write("\r\x1b[2K")
            self._out.flush()

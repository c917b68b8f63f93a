"""How far an act is: a count and a bar on a terminal, nothing anywhere else."""

from typing import TextIO

BAR_CELLS = 30


class Progress:
    """The bar is redrawn in place on `stream`; without `bar` only the count is told."""

    def __init__(self, stream: TextIO, verb: str, *, bar: bool = True) -> None:
        self._stream = stream
        self._shown = stream.isatty()
        self._verb = verb
        self._has_bar = bar
        self._total = 0
        self._what = ""
        self._begun = False
        self.done = 0

    def __str__(self) -> str:
        return f"{self.done} of {self._total} {self._what}" if self._what else "the count"

    def begin(self, total: int, what: str) -> None:
        """Say the count; the bar follows."""
        self._total, self._what = total, what
        self._write(f"{self._verb}: {total} {what}\n")
        self._begun = self._has_bar
        self._draw()

    def advance(self, count: int) -> None:
        self.done += count
        self._draw()

    def end(self) -> None:
        """Leave the bar's line; nothing to leave when none was begun."""
        if self._begun:
            self._write("\n")
            self._begun = False

    def _draw(self) -> None:
        if not self._begun:
            return
        share = min(1.0, self.done / self._total) if self._total else 1.0
        bar = ("#" * int(share * BAR_CELLS)).ljust(BAR_CELLS, ".")
        self._write(f"\r[{bar}] {self.done}/{self._total} {share:.0%}")

    def _write(self, text: str) -> None:
        if self._shown:
            self._stream.write(text)
            self._stream.flush()

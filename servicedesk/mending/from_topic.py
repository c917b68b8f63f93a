"""Redriving what the dead letter topic tells of, each death once, however often it is asked for.

A letter whose dead row is still there moves that row. Otherwise the history says whether this death
was redriven already, and the letter itself becomes the row.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from uuid import UUID

from servicedesk.mending.acts import DONE, NOTHING_FOUND
from servicedesk.mending.letter import FoundRecord, Letter, ReadLetter
from servicedesk.mending.lists import harmless, one_line
from servicedesk.mending.options import Options
from servicedesk.mending.progress import Progress
from servicedesk.mending.redrive_store import Judged, RedriveStore
from servicedesk.mending.selection import Selection
from servicedesk.mending.topic import TopicReading

# A record may have a megabyte.
BATCH_RECORDS = 100
ALREADY = "redriven before"
WAITING = "still in the queue, parked"
FOREIGN = "of another daemon, or no dead letters"
NO_EVENT = "no events, as they were found, and so not redrivable"
UNCLEAR = "without a sound event id, key or time of death, and so not redrivable"

Death = tuple[UUID, str, datetime]


class FromTopic:
    """One reading of a topic into one queue."""

    def __init__(
        self,
        *,
        options: Options,
        acts: RedriveStore,
        reading: TopicReading,
        read: ReadLetter,
        progress: Progress,
    ) -> None:
        self._options = options
        self._acts = acts
        self._reading = reading
        self._read = read
        self._progress = progress
        self._passed_over: Counter[str] = Counter()
        self._selected = 0
        # What a dry run has told of; the history does not have it.
        self._told: set[Death | None] = set()

    def redrive(self) -> int:
        """The exit code. Raises TopicError and psycopg.Error; what is done then stays done."""
        self._progress.begin(self._reading.total, "records in the topic up to now")
        done = 0
        for records in self._reading.batches(BATCH_RECORDS):
            letters = self._letters(records)
            for batch in _without_repeats(letters):
                done += self._act(batch)
            self._progress.advance(len(records))
        self._progress.end()
        return self._tell(done)

    def _letters(self, records: Sequence[FoundRecord]) -> list[Letter]:
        """Those that are ours, selected, and tell of a death."""
        found = []
        for record in records:
            letter = self._read(record)
            if letter is None:
                self._passed_over[FOREIGN] += 1
            elif _holds(self._options.selection, letter):
                self._selected += 1
                if letter.event_id is None:
                    self._passed_over[letter.obstacle or NO_EVENT] += 1
                elif _death(letter) is None:
                    self._passed_over[UNCLEAR] += 1
                else:
                    found.append(letter)
        return found

    def _act(self, letters: Sequence[Letter]) -> int:
        if not self._options.dry_run:
            return self._acts.redrive_letters(lambda: self._choose(letters))
        chosen = self._choose(letters)
        self._told |= {_death(letter) for letter, _ in chosen}
        for letter, _ in chosen:
            key = harmless(letter.key or "")
            print(f"would redrive: event {letter.event_id} of {key}: {one_line(letter.error)}")
        return len(chosen)

    def _choose(self, letters: Sequence[Letter]) -> list[tuple[Letter, int | None]]:
        """What is to be put back: by its dead row, whose id is given, or by the letter."""
        chosen: list[tuple[Letter, int | None]] = []
        deaths = [death for letter in letters if (death := _death(letter)) is not None]
        for letter, judged in zip(letters, self._acts.judge(deaths), strict=True):
            reason = ALREADY if _death(letter) in self._told else _refusal(letter, judged)
            if reason:
                self._passed_over[reason] += 1
            else:
                chosen.append((letter, judged.dead_id))
        return chosen

    def _tell(self, done: int) -> int:
        noun = "dead letters"
        if self._options.dry_run:
            print(f"{done} of {self._selected} {noun} would be redriven; nothing was changed")
        elif self._selected or done:
            print(f"redriven: {done} of {self._selected} {noun}")
        else:
            print(f"no {noun} of this queue are selected")
        for reason, count in sorted(self._passed_over.items()):
            print(f"passed over: {count} {harmless(reason)}")
        return DONE if done else NOTHING_FOUND


def _holds(selection: Selection, letter: Letter) -> bool:
    return selection.holds(
        event_id=letter.event_id, key=letter.key, error=letter.error, failed_at=letter.failed_at
    )


def _death(letter: Letter) -> Death | None:
    if letter.event_id is None or letter.key is None or letter.first_failed_at is None:
        return None
    return (letter.event_id, letter.key, letter.first_failed_at)


def _refusal(letter: Letter, judged: Judged) -> str:
    """Why a letter is passed over; empty when it is to be redriven."""
    if judged.redriven:
        return ALREADY
    if judged.dead_id is not None:
        # Of a later death, which has a letter of its own.
        return "" if judged.dead_since == letter.first_failed_at else ALREADY
    if judged.queued:
        return WAITING
    return letter.obstacle if letter.row is None else ""


def _without_repeats(letters: Sequence[Letter]) -> Iterator[list[Letter]]:
    """In order, cut before each repeat, so that the batch before it is in the history by then."""
    batch: list[Letter] = []
    seen: set[tuple[UUID | None, str | None]] = set()
    for letter in letters:
        row = (letter.event_id, letter.key)
        if row in seen:
            yield batch
            batch, seen = [], set()
        batch.append(letter)
        seen.add(row)
    if batch:
        yield batch

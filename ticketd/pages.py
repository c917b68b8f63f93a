"""The statements of the list: one page by keyset for each combination of filters."""

from collections.abc import Sequence
from itertools import compress, product

from servicedesk import binary
from servicedesk.wire import Statement, Wire
from ticketd.rows import ticket_of
from ticketd.tickets import Ticket, TicketQuery

FILTERS = ("status", "priority", "assignee")


def _statement(filters: Sequence[str]) -> Statement:
    """Index: the one on exactly these filters and id DESC (the primary key without filters), read
    in its own order up to the limit; no lock."""
    conditions = [f"{name} = ${number}::text" for number, name in enumerate(filters, start=1)]
    first, second, third = (f"${len(filters) + more}" for more in (1, 2, 3))
    conditions += [f"id >= {first}::uuid", f"id < {second}::uuid"]
    text = " ".join(
        (
            "SELECT id, title, description, status, priority, requester, assignee, version,",
            "created_at, updated_at, closed_at FROM tickets WHERE",
            " AND ".join(conditions),
            f"ORDER BY id DESC LIMIT {third}::int8",
        )
    )
    return Statement("_".join(("page", *filters)), text)


# One constant statement for each combination; values stay out.
PAGES = {
    given: _statement(list(compress(FILTERS, given)))
    for given in product((False, True), repeat=len(FILTERS))
}


async def page(wire: Wire, query: TicketQuery) -> list[Ticket]:
    filters = (query.status, query.priority, query.assignee)
    parameters = [binary.text(value) for value in filters if value is not None]
    parameters += [query.from_id.bytes, query.below_id.bytes, binary.int8(query.limit)]
    statement = PAGES[tuple(value is not None for value in filters)]
    return wire.rows(await wire.run(statement, parameters), ticket_of)


async def pages(wire: Wire, items: Sequence[TicketQuery]) -> Sequence[list[Ticket]]:
    """Lists have nothing to share, so they are asked for one after another."""
    return [await page(wire, query) for query in items]

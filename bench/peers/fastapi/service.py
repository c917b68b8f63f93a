"""The API on FastAPI, SQLAlchemy 2 and asyncpg, as their documentation teaches.

`uvicorn service:app --app-dir bench/peers/fastapi`, with DATABASE_URL (postgresql+asyncpg://…).
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException, Request, Response, status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from models import OutboxRow, TicketRow
from schemas import NewTicket, Ticket
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from tickets import open_ticket

engine = create_async_engine(
    os.environ["DATABASE_URL"],
    pool_size=int(os.environ.get("POOL_SIZE", "20")),
    max_overflow=0,
)
# expire_on_commit=False: what was just written is answered without reading it again.
new_session = async_sessionmaker(engine, expire_on_commit=False)


async def get_session() -> AsyncIterator[AsyncSession]:
    async with new_session() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan, title="tickets")


@app.post("/tickets", status_code=status.HTTP_201_CREATED)
async def create_ticket(
    new: NewTicket, request: Request, response: Response, session: Session
) -> Ticket:
    row = open_ticket(new)
    ticket = Ticket.model_validate(row)
    session.add(row)
    session.add(OutboxRow.created(ticket, request.headers))
    await session.commit()
    response.headers["ETag"] = f'"{row.version}"'
    response.headers["Location"] = f"/tickets/{row.id}"
    return ticket


@app.get("/tickets/{ticket_id}")
async def read_ticket(ticket_id: UUID, response: Response, session: Session) -> Ticket:
    row = await session.get(TicketRow, ticket_id)
    if row is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"There is no ticket {ticket_id}")
    response.headers["ETag"] = f'"{row.version}"'
    return Ticket.model_validate(row)


@app.exception_handler(RequestValidationError)
async def invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
    """RFC 9457, with every wrong field at once."""
    errors = [
        {
            "field": str(found["loc"][-1]),
            "code": found["type"],
            "message": found["msg"],
        }
        for found in error.errors()
    ]
    content = {
        "type": "/problems/validation_failed",
        "title": "Invalid request",
        "status": 400,
        "code": "validation_failed",
        "errors": errors,
    }
    return JSONResponse(content, 400, media_type="application/problem+json")

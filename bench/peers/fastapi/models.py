"""The tables of sql/ as ORM models."""

import json
import os
from collections.abc import Mapping
from datetime import datetime
from uuid import UUID
from zlib import crc32

from identifiers import new_id
from schemas import Ticket
from sqlalchemy import BigInteger, DateTime, Identity, SmallInteger, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

BUCKETS = 64


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012 - as SQLAlchemy's documentation declares it
        str: Text,
        datetime: DateTime(timezone=True),
    }
    # A column that the database fills in is not read back: nobody asks for it.
    __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012


class TicketRow(Base):
    __tablename__ = "tickets"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    title: Mapped[str]
    description: Mapped[str]
    status: Mapped[str]
    priority: Mapped[str]
    requester: Mapped[str]
    assignee: Mapped[str | None]
    version: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]


class OutboxRow(Base):
    __tablename__ = "outbox"

    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    aggregate_id: Mapped[UUID]
    sequence: Mapped[int] = mapped_column(BigInteger)
    event_id: Mapped[UUID]
    event_type: Mapped[str]
    headers: Mapped[str]
    payload: Mapped[str]

    @classmethod
    def created(cls, ticket: Ticket, headers: Mapping[str, str]) -> "OutboxRow":
        correlation = {
            "request_id": headers.get("x-request-id") or os.urandom(16).hex(),
            "traceparent": headers.get("traceparent")
            or f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-00",
        }
        return cls(
            bucket=crc32(str(ticket.id).encode()) % BUCKETS,
            aggregate_id=ticket.id,
            sequence=ticket.version,
            event_id=new_id(),
            event_type="ticket.created",
            headers=json.dumps(correlation, separators=(",", ":")),
            payload=ticket.model_dump_json(),
        )

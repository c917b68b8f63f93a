"""What clients send and get."""

from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer

Status = Literal["new", "in_progress", "resolved", "closed"]
Priority = Literal["low", "normal", "high", "urgent"]


def without_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("holds a NUL character")
    return value


def rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:26] + "Z"


NoNul = AfterValidator(without_nul)
Title = Annotated[str, Field(min_length=1, max_length=200), NoNul]
Description = Annotated[str, Field(max_length=5000), NoNul]
Person = Annotated[str, Field(min_length=1, max_length=200), NoNul]
Moment = Annotated[datetime, PlainSerializer(rfc3339, return_type=str, when_used="json")]


class NewTicket(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    title: Title
    description: Description = ""
    priority: Priority = "normal"
    requester: Person
    assignee: Person | None = None


class Ticket(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    title: str
    description: str
    status: Status
    priority: Priority
    requester: str
    assignee: str | None
    version: int
    created_at: Moment
    updated_at: Moment
    closed_at: Moment | None

"""The routes of attachments where there is no S3 store: each says so."""

from ticketd.errors import AttachmentsDisabledError
from ticketd.messages import Request, Response


class DisabledAttachments:
    """What AttachmentHandlers has."""

    async def announce(self, request: Request) -> Response:
        del request
        raise AttachmentsDisabledError

    complete = list = download = remove = announce

"""The credentials of S3: those of the settings, or what AWS's own tools would find on this machine
(a profile, a container's or an instance's role), renewed before they expire."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

# botocore's ReadOnlyCredentials, or its Credentials: an access key, a secret key, a token.
Credentials = Any
Source = Callable[[], Awaitable[Credentials]]


class NoCredentialsError(Exception):
    """Neither the settings nor this machine have credentials for S3."""

    def __init__(self) -> None:
        super().__init__("no credentials: set S3_ACCESS_KEY and S3_SECRET_KEY, or give it a role")


def fixed(access_key: str, secret_key: str, token: str | None) -> Source:
    from botocore.credentials import Credentials as Fixed  # noqa: PLC0415 - only where it is used

    credentials = Fixed(access_key, secret_key, token)

    async def give() -> Credentials:
        return credentials

    return give


class Found:
    """Looks on first use, and again while there are none. Looking and renewing may ask an address
    of the network and block, so both are done in a thread."""

    def __init__(self) -> None:
        self._credentials: Credentials | None = None

    async def give(self) -> Credentials:
        """Raises NoCredentialsError."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> Credentials:
        if self._credentials is None:
            from botocore.session import get_session  # noqa: PLC0415 - only where it is used

            self._credentials = get_session().get_credentials()
        if self._credentials is None:
            raise NoCredentialsError
        return self._credentials.get_frozen_credentials()

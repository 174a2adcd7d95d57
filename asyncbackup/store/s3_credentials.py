"""Credentials, found where AWS's tools look for them, and read again when the endpoint calls them expired."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import botocore.exceptions
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession

from asyncbackup.errors import AccessDeniedError

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials

    from asyncbackup.config import S3Settings

_NOT_FOUND = (
    "no AWS credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "or name a profile in [s3]"
)


class Credentials:
    """The credentials that a client signs with.

    Those that a role or single sign-on gives out are renewed by the library before they end.
    Fixed ones with a session token are not: somebody logs in again and writes new ones into the
    AWS configuration. :meth:`renew` reads them from there, so that a long backup goes on.
    """

    def __init__(self, current: AioCredentials, settings: S3Settings) -> None:
        self.generation = 0
        """Grows with every renewal."""
        self._current = current
        self._settings = settings
        self._renewing = asyncio.Lock()

    async def current(self) -> ReadOnlyCredentials:
        """What to sign the next request with. Raises botocore's errors where a renewal fails."""
        return await self._current.get_frozen_credentials()

    async def renew(self, seen: int) -> bool:
        """Whether there are credentials other than those of generation ``seen``, which were refused."""
        async with self._renewing:
            if self.generation != seen:
                return True  # Another request has seen to it.
            fresh = await find_credentials(AioSession(profile=self._settings.profile or None))
            if type(self._current) is not AioCredentials or type(fresh) is not AioCredentials:
                return False
            if (fresh.access_key, fresh.secret_key, fresh.token) == (
                self._current.access_key,
                self._current.secret_key,
                self._current.token,
            ):
                return False
            # The client holds this very object and reads it for every signature.
            self._current.access_key = fresh.access_key
            self._current.secret_key = fresh.secret_key
            self._current.token = fresh.token
            self.generation += 1
            return True


async def find_credentials(session: AioSession) -> AioCredentials:
    """What the usual AWS chain finds. Raises ``AccessDeniedError`` where it finds nothing usable."""
    try:
        credentials = await session.get_credentials()
    except (
        botocore.exceptions.CredentialRetrievalError,
        botocore.exceptions.PartialCredentialsError,
        botocore.exceptions.SSOError,
    ) as error:
        reason = f"the AWS credentials cannot be used: {error}"
        raise AccessDeniedError("Credentials", "", reason, code="NoCredentials") from error
    if credentials is None:
        raise AccessDeniedError("Credentials", "", _NOT_FOUND, code="NoCredentials")
    return credentials

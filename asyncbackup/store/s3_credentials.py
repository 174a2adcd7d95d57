"""What requests are signed with: credentials, found where AWS's tools look for them and looked up again
when the endpoint calls them expired, and the endpoint's time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import botocore.exceptions
from aiobotocore.credentials import AioCredentials, AioRefreshableCredentials
from aiobotocore.session import AioSession

from asyncbackup.errors import AccessDeniedError

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials

    from asyncbackup.config import S3Settings
    from asyncbackup.store.endpoint_clock import EndpointClock

_NOT_FOUND = (
    "no AWS credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "or name a profile in [s3]"
)


Found = AioCredentials | AioRefreshableCredentials
"""Fixed ones, and such as their source gives out for a time."""


class Credentials:
    """The credentials that a client signs with, and the ``clock`` that its signatures go by.

    Those that a role or single sign-on gives out are renewed by the library before they end, by this
    machine's clock. Fixed ones with a session token are not: somebody logs in again and writes new
    ones into the AWS configuration. :meth:`renew` fetches either anew, so that a long backup goes on.
    """

    def __init__(self, current: Found, settings: S3Settings, clock: EndpointClock) -> None:
        self.generation = 0
        """Grows with every renewal."""
        self.clock = clock
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
            renewed = (
                await self._fetch_again(self._current)
                if isinstance(self._current, AioRefreshableCredentials)
                else await self._read_again(self._current)
            )
            self.generation += renewed
            return renewed

    async def _fetch_again(self, current: AioRefreshableCredentials) -> bool:
        """Ask the source of credentials that have an end for others, although they have not reached it."""
        refused = await current.get_frozen_credentials()
        library: Any = current  # It has no public way to say that they are no good any more.
        try:
            async with library._refresh_lock:
                # Not "mandatory": that would raise whatever the source raises.
                await library._protected_refresh(is_mandatory=False)
        except RuntimeError:
            return False  # The new ones have expired as well.
        return await current.get_frozen_credentials() != refused

    async def _read_again(self, current: AioCredentials) -> bool:
        """Look for fixed credentials where the current ones were found."""
        fresh = await find_credentials(AioSession(profile=self._settings.profile or None))
        if isinstance(fresh, AioRefreshableCredentials):
            return False
        if (fresh.access_key, fresh.secret_key, fresh.token) == (
            current.access_key,
            current.secret_key,
            current.token,
        ):
            return False
        # The client holds this very object and reads it for every signature.
        current.access_key = fresh.access_key
        current.secret_key = fresh.secret_key
        current.token = fresh.token
        return True


async def find_credentials(session: AioSession) -> Found:
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

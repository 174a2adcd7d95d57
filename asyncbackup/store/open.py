"""From a destination's URL to the store behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from asyncbackup.destination import check_destination, is_remote
from asyncbackup.errors import ConfigError

if TYPE_CHECKING:
    from asyncbackup.config import S3Settings
    from asyncbackup.store.base import Store
    from asyncbackup.store.retry import RetryPolicy


@asynccontextmanager
async def open_store(
    destination: str,
    *,
    s3: S3Settings,
    concurrency: int,
    adaptive: bool = False,
    storage_class: str = "STANDARD",
    create: bool = False,
    policy: RetryPolicy | None = None,
    on_retry: Callable[[str], None] | None = None,
) -> AsyncIterator[Store]:
    """The store at ``s3://bucket/prefix`` or ``file:///folder``, closed on leaving.

    At most ``concurrency`` requests are under way at once; if ``adaptive``, as many up to that as
    serve the endpoint best (S3 only: a folder has as many threads as it is good for).
    ``storage_class`` is that of new objects (S3 only), ``create`` makes a missing folder
    (``file://`` only: a bucket is never made), ``policy`` replaces the retry policy that ``s3``
    describes, ``on_retry`` is told one line of every request that is sent again. Raises
    ``ConfigError`` for a destination or endpoint that cannot be, ``AccessDeniedError`` without
    credentials, ``StoreError`` for a folder that is missing. Nothing is sent before the first call.
    """
    try:
        url = check_destination(destination)
    except ValueError as error:
        raise ConfigError(f"destination {destination!r}: {error}") from None
    store: Store
    # Each kind is loaded by who has a destination of it.
    if is_remote(url):
        from asyncbackup.store.s3 import S3Store
        from asyncbackup.store.s3_location import s3_location

        store = await S3Store.connect(
            s3_location(url),
            settings=s3,
            concurrency=concurrency,
            adaptive=adaptive,
            storage_class=storage_class,
            policy=policy,
            on_retry=on_retry,
        )
    else:
        from asyncbackup.store.local import LocalStore

        folder = Path(url.removeprefix("file://"))
        store = await LocalStore.connect(folder, concurrency=concurrency, create=create)
    try:
        yield store
    finally:
        await store.aclose()

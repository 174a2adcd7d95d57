"""What a measurement or an examination leaves at a destination until it is removed again."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from asyncbackup.errors import AccessDeniedError, ObjectMissingError, StoreError
from asyncbackup.store.base import UploadId
from asyncbackup.store.retry import TransientError

if TYPE_CHECKING:
    from asyncbackup.store.base import Store

DELETE_BATCH = 1000


class Traces:
    """Every key is noted before it is written, so that also a write whose end nobody saw is removed.

    After :meth:`remove`, ``keys`` and ``uploads`` are what is still there, or may be, and ``reasons``
    why; ``denied`` says that the credentials may not delete.
    """

    def __init__(self, purpose: str) -> None:
        self.prefix = f"asyncbackup-{purpose}-{secrets.token_hex(4)}/"
        self.keys: set[str] = set()
        self.uploads: dict[UploadId, str] = {}
        self.reasons: list[str] = []
        self.denied = False

    def key(self, name: str) -> str:
        """A key below the prefix, noted as written."""
        key = self.prefix + name
        self.keys.add(key)
        return key

    def write_failed(self, key: str, error: StoreError) -> None:
        """The write of a fresh key failed: what was refused outright, or never sent, needs no removing."""
        never_sent = isinstance(error, TransientError) and error.unreachable
        if never_sent or not error.retryable:
            self.keys.discard(key)

    def note_upload(self, upload_id: str, key: str) -> None:
        """An upload that was begun."""
        self.uploads[UploadId(upload_id)] = key

    def forget_upload(self, upload_id: str) -> None:
        """An upload that was completed or aborted."""
        self.uploads.pop(UploadId(upload_id), None)

    @property
    def left(self) -> list[str]:
        """The keys that could not be removed, and those of uploads that could not be aborted."""
        return sorted(self.keys | set(self.uploads.values()))

    async def remove(self, store: Store) -> None:
        """Delete and abort all that was noted, and what a listing shows beside it."""
        self.reasons.clear()
        await self._abort(store)
        await self._delete(store, sorted(self.keys))
        # A write that was cancelled may have come to its end after all, and one that was noted may have
        # been refused.
        listed: set[str] = set()
        try:
            async for page in store.list(self.prefix):
                listed.update(info.key for info in page)
            await self._delete(store, sorted(listed))
            self.keys &= listed
            async for uploads in store.list_uploads(self.prefix):
                self.uploads.update((upload.upload_id, upload.key) for upload in uploads)
        except StoreError as error:
            self._note(error)
        await self._abort(store)

    async def delete(self, store: Store, keys: list[str]) -> None:
        """Delete some keys before the end. A failure is noted; :meth:`remove` tries once more."""
        await self._delete(store, keys)

    async def _delete(self, store: Store, keys: list[str]) -> None:
        for start in range(0, len(keys), DELETE_BATCH):
            batch = keys[start : start + DELETE_BATCH]
            self.keys.update(batch)
            try:
                await store.delete(batch)
            except AccessDeniedError as error:
                self.denied = True
                self._note(error)
            except StoreError:
                # One key that an endpoint stumbles over shall not keep the others.
                await self._delete_each(store, batch)
            else:
                self.keys.difference_update(batch)

    async def _delete_each(self, store: Store, keys: list[str]) -> None:
        for key in keys:
            try:
                await store.delete([key])
            except StoreError as error:
                if await self._is_there(store, key):
                    self._note(error)
                    continue
            self.keys.discard(key)

    async def _is_there(self, store: Store, key: str) -> bool:
        try:
            await store.head(key)
        except ObjectMissingError:
            return False
        except StoreError as error:
            # A name that the endpoint refuses even to look for was refused when it was written, too.
            return error.retryable or isinstance(error, AccessDeniedError)
        return True

    async def _abort(self, store: Store) -> None:
        for upload_id, key in list(self.uploads.items()):
            try:
                await store.abort_upload(key, upload_id)
            except StoreError as error:
                self._note(error)
            else:
                del self.uploads[upload_id]

    def _note(self, error: StoreError) -> None:
        if str(error) not in self.reasons:
            self.reasons.append(str(error))

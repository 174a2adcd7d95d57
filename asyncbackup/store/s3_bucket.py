"""One bucket at one endpoint: what every S3 request needs to know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncbackup.format.keys import is_content_key
from asyncbackup.store.s3_errors import Target

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

    from asyncbackup.store.s3_library import S3Library
    from asyncbackup.store.s3_location import S3Location


CONNECT_SECONDS = 10.0
"""What a connection may take to come about, however patient requests are."""


class S3Bucket:
    """The bucket and prefix of a destination, the storage class of what is written, and the library."""

    __slots__ = ("endpoint", "library", "location", "name", "storage_class")

    def __init__(
        self, library: S3Library, location: S3Location, *, endpoint: str, storage_class: str
    ) -> None:
        self.library = library
        self.endpoint = endpoint
        """The endpoint's URL."""
        self.location = location
        self.name = location.bucket
        self.storage_class = storage_class

    async def client(self) -> S3Client:
        """The library's client, opened if this is the first request that needs it.

        Raises as :meth:`~asyncbackup.store.s3_library.S3Library.open` does.
        """
        return (await self.library.open()).client

    def full(self, key: str) -> str:
        """The key in the bucket."""
        return self.location.full(key)

    def target(self, operation: str, key: str = "") -> Target:
        """What an error message about this request names."""
        return Target(operation, key, self.name, self.endpoint)

    def storage_class_option(self, key: str) -> dict[str, Any]:
        """The parameter for a new object; none for STANDARD, which some endpoints do not know by name.

        Only contents get the configured class. Descriptor and manifests are read before anything can
        be restored, and are of no use in an archive that takes hours to answer.
        """
        if self.storage_class == "STANDARD" or not is_content_key(key):
            return {}
        return {"StorageClass": self.storage_class}

"""One bucket seen through one client: what every S3 request needs to know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncbackup.format.keys import is_content_key
from asyncbackup.store.s3_errors import Target

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

    from asyncbackup.store.s3_location import S3Location


class S3Bucket:
    """A client, the bucket and prefix that it works on, and the storage class of what it writes."""

    __slots__ = ("client", "location", "name", "storage_class")

    def __init__(self, client: S3Client, location: S3Location, *, storage_class: str) -> None:
        self.client = client
        self.location = location
        self.name = location.bucket
        self.storage_class = storage_class

    def full(self, key: str) -> str:
        """The key in the bucket."""
        return self.location.full(key)

    def target(self, operation: str, key: str = "") -> Target:
        """What an error message about this request names."""
        return Target(operation, key, self.name, self.client.meta.endpoint_url)

    def storage_class_option(self, key: str) -> dict[str, Any]:
        """The parameter for a new object; none for STANDARD, which some endpoints do not know by name.

        Only contents get the configured class. Descriptor and manifests are read before anything can
        be restored, and are of no use in an archive that takes hours to answer.
        """
        if self.storage_class == "STANDARD" or not is_content_key(key):
            return {}
        return {"StorageClass": self.storage_class}

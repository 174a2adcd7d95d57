"""The buckets by name."""

from __future__ import annotations

from benchmarks.server.memory import Bucket
from benchmarks.server.message import S3Error


class Buckets:
    """All buckets of the server."""

    def __init__(self) -> None:
        self.by_name: dict[str, Bucket] = {}

    def get(self, name: str) -> Bucket:
        """Raises ``S3Error``."""
        try:
            return self.by_name[name]
        except KeyError:
            raise S3Error(404, "NoSuchBucket", "The specified bucket does not exist.") from None

    def create(self, name: str) -> None:
        """Raises ``S3Error`` where there is one."""
        if name in self.by_name:
            raise S3Error(409, "BucketAlreadyOwnedByYou", "You already own this bucket.")
        self.by_name[name] = Bucket(name)

    def delete(self, name: str) -> None:
        """Raises ``S3Error`` where it is missing or not empty."""
        if self.get(name).objects:
            raise S3Error(409, "BucketNotEmpty", "The bucket you tried to delete is not empty.")
        del self.by_name[name]

    def drop(self, name: str) -> None:
        """Forget a bucket and all that it holds, if it is there."""
        self.by_name.pop(name, None)

    def told(self) -> dict[str, dict[str, int]]:
        return {
            name: {
                "objects": len(bucket.objects),
                "bytes": bucket.stored_bytes,
                "uploads": len(bucket.uploads),
            }
            for name, bucket in self.by_name.items()
        }

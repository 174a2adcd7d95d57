"""The kinds of stores that the contract is checked against, and what each is known to lack."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from typing import TYPE_CHECKING

from asyncbackup.store.retry import RetryPolicy

if TYPE_CHECKING:
    from asyncbackup.config import S3Settings
    from tests.servers import S3Endpoint

QUICK = RetryPolicy(max_attempts=3, base_seconds=0.01, cap_seconds=0.05, jitter=lambda: 0.0)
"""Retries without waiting: real servers on this machine either answer or do not."""

_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backend:
    """A kind of store. Each flag that is off says in its comment below who lacks it and how."""

    name: str
    destination: str
    s3: S3Settings
    checks_digests: bool = True
    """A body that is not what its SHA-256 says is refused."""
    keeps_checksums: bool = True
    """HEAD returns the SHA-256 of an object that was written whole."""
    keeps_folders: bool = True
    """``docs/`` is an object beside ``docs/report.pdf``."""
    keeps_folder_metadata: bool = True
    refuses_taken_keys: bool = True
    """``if_absent`` finds an existing object."""
    copy_replaces_metadata: bool = True
    knows_its_uploads: bool = True
    """An upload id that was aborted or never existed is called unknown."""
    replaces_parts: bool = True
    """A part may be sent again with other bytes; the same bytes may always be."""
    copies_parts: bool = True
    """``copy_part`` works; elsewhere it says so and leaves the upload as it was."""
    checks_copied_ranges: bool = True
    """A range that ends after the source is refused."""
    digests_copied_parts: bool = True
    """The receipt of a copied part has its SHA-256."""


LACKS: dict[str, dict[str, bool]] = {
    # The folder keeps what it is told; it computes no digest of its own.
    "local": {"checks_digests": False},
    # Takes any x-amz-checksum; drops the slash of folders; ignores If-None-Match; streams the
    # parts of an upload to its disk as they come; a copy has the metadata of both; takes UploadPartCopy
    # for a part of no bytes, which it does not let be replaced.
    "rclone": {
        "checks_digests": False,
        "keeps_folders": False,
        "keeps_folder_metadata": False,
        "refuses_taken_keys": False,
        "replaces_parts": False,
        "copy_replaces_metadata": False,
        "copies_parts": False,
    },
    # The benchmarks' own server does what S3 does.
    "memory": {},
    # Directories have no metadata in the filer.
    "seaweed": {"keeps_folder_metadata": False},
    # Checks no digest; returns the checksum of multipart objects and copies alone; answers 500
    # for a part of an unknown upload; copies what there is of a range.
    "moto": {
        "checks_digests": False,
        "keeps_checksums": False,
        "knows_its_uploads": False,
        "checks_copied_ranges": False,
        "digests_copied_parts": False,
    },
}

BACKENDS = ("local", "memory", "rclone", "seaweed", "moto")


def s3_backend(endpoint: S3Endpoint, buckets: dict[str, str]) -> Backend:
    """A fresh prefix in the session's bucket of an endpoint."""
    if endpoint.name not in buckets:
        buckets[endpoint.name] = endpoint.fresh_bucket()
    destination = f"s3://{buckets[endpoint.name]}/tests/{next(_numbers):04d}"
    return Backend(
        name=endpoint.name, destination=destination, s3=endpoint.settings(), **LACKS[endpoint.name]
    )


def digest(*bodies: bytes) -> bytes:
    return hashlib.sha256(b"".join(bodies)).digest()


def pattern(size: int, seed: int = 0) -> bytes:
    """Reproducible bytes without a short period: a shifted or doubled range never looks right."""
    block = hashlib.shake_128(b"%d" % seed).digest(1024 * 1024 + 7)
    return (block * (size // len(block) + 1))[:size]

"""What a test needs to know of a running S3 server, and an independent client for looking into it."""

from __future__ import annotations

import itertools
from typing import Any

import botocore.session
import msgspec
from botocore.config import Config

from asyncbackup.config import S3Settings

ACCESS_KEY = "AKIATESTACCESSKEY000"
SECRET_KEY = "test-secret-key-of-every-server-000000"
"""Every server takes these; the fixtures put them into the environment, so that subprocesses inherit them."""

_numbers = itertools.count(1)


class S3Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A running server: ``name`` is ``rclone``, ``seaweed`` or ``moto``."""

    name: str
    url: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    region: str = "us-east-1"
    transfer: str = "lean"

    def settings(self, **changes: Any) -> S3Settings:
        """Settings that reach this server; ``changes`` are further fields of ``S3Settings``."""
        fields = {"endpoint_url": self.url, "region": self.region, "transfer": self.transfer}
        return S3Settings(**{**fields, **changes})

    def fresh_bucket(self) -> str:
        """Make an empty bucket with a name that was not used before."""
        bucket = f"bucket-{next(_numbers):04d}"
        client = self.client()
        try:
            client.create_bucket(Bucket=bucket)
        finally:
            client.close()
        return bucket

    def client(self, **config: Any) -> Any:
        """A plain synchronous botocore client: the second opinion that tests compare with."""
        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.url,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                connect_timeout=5,
                read_timeout=30,
                retries={"total_max_attempts": 1},
                **config,
            ),
        )

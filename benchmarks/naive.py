"""The baseline: one request after another, as a loop of a few lines does it; and buckets made and removed.

python -m benchmarks.naive ENDPOINT BUCKET put|look|get FOLDER
python -m benchmarks.naive ENDPOINT BUCKET create|remove
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.session import get_session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from botocore.client import BaseClient

REGION = "us-east-1"


def main() -> int:
    endpoint, bucket, work = sys.argv[1:4]
    client = get_session().create_client("s3", endpoint_url=endpoint, region_name=REGION)
    if work == "create":
        _call(client, "create_bucket", Bucket=bucket)
    elif work == "remove":
        for key, _ in _listed(client, bucket):
            _call(client, "delete_object", Bucket=bucket, Key=key)
        _call(client, "delete_bucket", Bucket=bucket)
    elif work == "put":
        for key, path in _files(Path(sys.argv[4])):
            _call(client, "put_object", Bucket=bucket, Key=key, Body=path.read_bytes())
    elif work == "look":
        held = dict(_listed(client, bucket))
        for key, path in _files(Path(sys.argv[4])):
            if held.get(key) != path.stat().st_size:
                _call(client, "put_object", Bucket=bucket, Key=key, Body=path.read_bytes())
    else:
        for key, _ in _listed(client, bucket):
            path = Path(sys.argv[4], key)
            path.parent.mkdir(parents=True, exist_ok=True)
            body = _call(client, "get_object", Bucket=bucket, Key=key)["Body"]
            path.write_bytes(body.read())
    return 0


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            yield path.relative_to(root).as_posix(), path


def _listed(client: BaseClient, bucket: str) -> Iterator[tuple[str, int]]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for found in page.get("Contents", ()):
            yield found["Key"], found["Size"]


def _call(client: BaseClient, operation: str, **arguments: object) -> Any:  # the client makes both up
    return getattr(client, operation)(**arguments)


if __name__ == "__main__":
    raise SystemExit(main())

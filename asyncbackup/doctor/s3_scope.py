"""What the checks of an endpoint share: the probe, and keys below a prefix that is removed afterwards."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncbackup.store.s3_probe import Answer, S3Probe
    from asyncbackup.traces import Traces


class Scope:
    """Writes below the traces' prefix, and notes every key before it does."""

    def __init__(self, probe: S3Probe, traces: Traces) -> None:
        self.probe = probe
        self.traces = traces

    def key(self, name: str) -> str:
        """A key to be written to."""
        return self.traces.key(name)

    def upload_key(self, name: str) -> str:
        """A key for an upload, where there is no object before it is completed."""
        return self.traces.prefix + name

    async def put(self, key: str, body: bytes, **parameters: Any) -> Answer:
        """Write an object whole, with its checksum unless the parameters bring another."""
        parameters.setdefault("ChecksumSHA256", checksum(body))
        return await self.probe.call("put_object", key, Body=body, **parameters)

    async def get(self, key: str) -> bytes:
        """A small object."""
        _, body = await self.probe.read(key)
        return body

    async def begin_upload(self, key: str) -> str:
        """Begin a multipart upload; gives its id."""
        answer = await self.probe.call("create_multipart_upload", key)
        upload_id = answer.text("UploadId")
        self.traces.note_upload(upload_id, key)
        return upload_id

    async def send_part(self, key: str, upload_id: str, number: int, body: bytes) -> dict[str, Any]:
        """Send one part; gives how Complete names it."""
        answer = await self.probe.call("upload_part", key, UploadId=upload_id, PartNumber=number, Body=body)
        return {"PartNumber": number, "ETag": answer.text("ETag")}

    async def complete(self, key: str, upload_id: str, parts: list[dict[str, Any]]) -> None:
        """Make the object of its parts, in the order given."""
        self.traces.keys.add(key)
        await self.probe.call(
            "complete_multipart_upload", key, UploadId=upload_id, MultipartUpload={"Parts": parts}
        )
        self.traces.forget_upload(upload_id)

    async def listed(self, name: str) -> list[str]:
        """The keys that a listing shows below ``name``, without the traces' prefix, in its order."""
        prefix = self.traces.prefix
        answer = await self.probe.call("list_objects_v2", Prefix=self.probe.location.full(prefix + name))
        start = len(self.probe.location.full(prefix))
        return [str(item["Key"])[start:] for item in answer.items("Contents")]


def checksum(body: bytes) -> str:
    """The value of ``x-amz-checksum-sha256``."""
    return base64.b64encode(hashlib.sha256(body).digest()).decode()

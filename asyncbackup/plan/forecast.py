"""From what a run would look at to the objects and requests that it would make, in each layout."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.format.envelope import sealed_size
from asyncbackup.pipeline.packer import MEMBERS_PER_PACK
from asyncbackup.plan.sample import Ratios

if TYPE_CHECKING:
    from asyncbackup.plan.shape import Shape, SizeGroup

MEMBER_BYTES = 3 * 512
"""What tar adds to a member: its header, and an extended one for times in nanoseconds."""
MEMBER_RATIO = 0.12
"""What compression leaves of tar headers, which are much alike."""
TAR_BLOCK = 512
MANIFEST_BYTES = 47
"""A line of a compressed manifest: 100,000 files take 4.7 MB."""
MAX_COPY_BYTES = 5 * 1024**3


class Objects(msgspec.Struct, frozen=True, kw_only=True):
    """``count`` objects of about ``size`` stored bytes each."""

    count: int
    size: float


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What uploading a shape makes in one layout.

    ``objects`` are the contents by size, ``manifest_bytes`` what the manifest takes beside them;
    ``part_requests`` are those of ``requests`` that begin multipart uploads and send their parts.
    ``sent_bytes`` of them cross the line: copies on the server do not.
    """

    layout: str
    objects: tuple[Objects, ...]
    requests: dict[str, int]
    own_requests: dict[str, int]
    """Of the run itself, however many files there are: marks, listings, the manifest."""
    sent_bytes: int
    manifest_bytes: int

    @property
    def object_count(self) -> int:
        return sum(group.count for group in self.objects)

    @property
    def stored_bytes(self) -> int:
        return round(sum(group.count * group.size for group in self.objects))


class LayoutSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a section would store: ``ratios`` are 1 where nothing is compressed."""

    packed: bool
    sealed: bool
    ratios: Ratios
    part_size_bytes: int
    compressed_part_bytes: int
    pack_size_bytes: int
    known_snapshot: bool = False
    reads_secret: bool = False
    asks_for_folders: bool = False
    """Whether a mirror asks the endpoint first if it keeps folders as objects; nobody asks AWS's."""


def forecast(shape: Shape, settings: LayoutSettings) -> Forecast:
    """What a run that uploads ``shape`` makes."""
    requests: Counter[str] = Counter()
    objects: list[Objects] = []
    sent = 0.0
    compressed_so_far = {True: 0.0, False: 0.0}
    for group in shape.groups(small=False if settings.packed else None):
        ratio, share = _compression(group, settings.ratios)
        # What rounding takes from one group it gives to the next.
        wanted = compressed_so_far[group.small] + group.count * share
        compressed = min(group.count, round(wanted)) if ratio < 1.0 else 0
        compressed_so_far[group.small] = wanted - compressed
        plain_parts = group.parts if group.parts > 1 else 0
        sent += _single(group.count - compressed, group.mean_bytes, plain_parts, settings, requests, objects)
        size = group.mean_bytes * ratio
        # What was begun in parts stays so, also where it shrinks to a single one.
        parts = -(-round(_sealed(size, settings)) // settings.compressed_part_bytes)
        parts = max(1, parts) if group.parts > 1 else 0
        sent += _single(compressed, size, parts, settings, requests, objects)
    if settings.packed:
        sent += _packs(shape, settings, requests, objects)
        links, link_bytes = shape.links - shape.small_links, shape.link_bytes
    else:
        links, link_bytes = shape.links, shape.link_bytes + shape.small_link_bytes
        empty = shape.folders + shape.symlinks
        requests["PutObject"] += empty
        objects.append(Objects(count=empty, size=0))
    if links:
        # An empty object that names the first where the content is sealed, else a copy of it.
        requests["PutObject" if settings.sealed else "CopyObject"] += links
        objects.append(Objects(count=links, size=0.0 if settings.sealed else link_bytes / links))
    return Forecast(
        layout="packed" if settings.packed else "mirror",
        objects=tuple(group for group in objects if group.count),
        requests={name: count for name, count in requests.items() if count},
        own_requests=_own_requests(settings, folders=bool(shape.folders)),
        sent_bytes=round(sent),
        manifest_bytes=shape.entries * MANIFEST_BYTES,
    )


def _compression(group: SizeGroup, ratios: Ratios) -> tuple[float, float]:
    """What is left of those files of the group that are compressed, and their share."""
    if group.small:
        return ratios.small, ratios.small_share
    return ratios.large_by_size.get(int(group.mean_bytes).bit_length(), (ratios.large, ratios.large_share))


def _single(
    count: int,
    content: float,
    parts: int,
    settings: LayoutSettings,
    requests: Counter[str],
    objects: list[Objects],
) -> float:
    """Files as objects of their own, in ``parts`` or (0) whole; gives the bytes of all of them."""
    if not count:
        return 0.0
    if not parts:
        requests["PutObject"] += count
    else:
        requests["CreateMultipartUpload"] += count
        requests["UploadPart"] += count * parts
        requests["CompleteMultipartUpload"] += count
    size = _sealed(content, settings)
    objects.append(Objects(count=count, size=size))
    return count * size


def _packs(shape: Shape, settings: LayoutSettings, requests: Counter[str], objects: list[Objects]) -> float:
    """Small files, folders and symlinks in packs; gives the bytes of all packs."""
    members = shape.folders + shape.symlinks + shape.small_links
    content = 0.0
    for group in shape.groups(small=True):
        members += group.count
        content += group.bytes
        if settings.ratios.packed == 1.0:
            # Padding is half a block on average; of an empty file there is none.
            content += group.count * (TAR_BLOCK / 2 if group.bytes else 0)
    if not members:
        return 0.0
    ratio = settings.ratios.packed
    headers = members * MEMBER_BYTES * (1.0 if ratio == 1.0 else MEMBER_RATIO)
    total = content * ratio + headers
    count = max(1, -(-round(total) // settings.pack_size_bytes), -(-members // MEMBERS_PER_PACK))
    size = _sealed(total / count, settings)
    requests["PutObject"] += count
    objects.append(Objects(count=count, size=size))
    return count * size


def _sealed(size: float, settings: LayoutSettings) -> float:
    return sealed_size(round(size)) if settings.sealed else size


def _own_requests(settings: LayoutSettings, *, folders: bool) -> dict[str, int]:
    # The mark of the run and the manifest; the look for prunes.
    requests = Counter({"PutObject": 2, "ListObjectsV2": 1})
    if settings.known_snapshot:
        requests["HeadObject"] += 1
    if settings.asks_for_folders and folders and not settings.packed:
        requests["HeadObject"] += 1
    if settings.reads_secret or not settings.known_snapshot:
        requests["GetObject"] += 1  # the descriptor
    return dict(requests)


def total_requests(forecast: Forecast) -> dict[str, int]:
    """All requests of the run by operation."""
    return dict(Counter(forecast.requests) + Counter(forecast.own_requests))

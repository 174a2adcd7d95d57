"""What is asked of the process beside to make frames of a batch that it read (docs/design.md, "Processes
beside"), and what it answers. The frames are where both see them."""

from __future__ import annotations

import msgspec


class MemberLink(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The member at ``position`` among those asked for is a link to ``link_to``, perhaps as a ``copy``."""

    position: int
    link_to: bytes
    copy: bool


class FramesRequest(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="frames"):
    """Make frames of these items of a batch that was read, by their index, and lay them one behind
    another from ``offset`` of the shared memory, where ``room_bytes`` are free."""

    batch: int
    offset: int
    room_bytes: int
    items: list[int]
    links: list[MemberLink]


class WireFrame(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """How many members a frame has, and how many bytes as stored."""

    members: int
    size: int


class FramesReply(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The frames, and of each member where in its frame the content begins; ``made`` is false where the
    batch is no longer known, or there was no room."""

    made: bool
    frames: list[WireFrame]
    begins: list[int]

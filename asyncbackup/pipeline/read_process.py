"""The process that reads small files beside the one that sends them: its own side."""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.pipeline.read_wire import LENGTH, ReadReply, ReadRequest, reply_of
from asyncbackup.pipeline.small_reader import Arena, SmallReader

if TYPE_CHECKING:
    import mmap
    import socket


def serve_reads(sock: socket.socket, memory: mmap.mmap) -> None:
    """Read batch after batch as the other side asks, until it is gone. Blocks."""
    decoder, encoder = msgspec.msgpack.Decoder(ReadRequest), msgspec.msgpack.Encoder()
    view = memoryview(memory)
    reader: SmallReader | None = None
    while (request := _receive(sock)) is not None:
        try:
            asked = decoder.decode(request)
            if asked.settings is not None:
                reader = SmallReader(asked.settings)
            assert reader is not None, "the first request has the settings"
            reply = _read(reader, asked, view)
        except Exception:  # noqa: BLE001 - the other side reads the batch itself, and meets it too
            reply = ReadReply(error=traceback.format_exc())
        answer = encoder.encode(reply)
        sock.sendall(LENGTH.pack(len(answer)))
        sock.sendall(answer)


def _read(reader: SmallReader, asked: ReadRequest, view: memoryview) -> ReadReply:
    arena = Arena(view[asked.offset : asked.offset + asked.room_bytes], largest_bytes=asked.room_bytes)
    began, computed = time.perf_counter(), time.thread_time()
    results = reader.read(asked.changes, arena)
    waited_seconds = time.perf_counter() - began - (time.thread_time() - computed)
    return reply_of(results, arena, waited_seconds=waited_seconds)


def _receive(sock: socket.socket) -> bytearray | None:
    """The next request; ``None`` once the other side is gone."""
    head = _receive_exactly(sock, LENGTH.size)
    return None if head is None else _receive_exactly(sock, LENGTH.unpack(head)[0])


def _receive_exactly(sock: socket.socket, size: int) -> bytearray | None:
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        count = sock.recv_into(view[filled:])
        if not count:
            return None
        filled += count
    return data

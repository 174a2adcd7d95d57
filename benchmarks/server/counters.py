"""What was asked of the server: requests and bytes, by operation."""

from __future__ import annotations

import time
from collections import Counter


class Counters:
    """Sums since the start or the last reset. Bytes are those of bodies, framing included."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.connections = 0
        self.under_way = 0
        self.most_under_way = 0
        self._cpu_before = 0.0

    def reset(self) -> None:
        for sums in (self.requests, self.received, self.sent, self.errors):
            sums.clear()
        self.connections = 0
        self.most_under_way = self.under_way
        self._cpu_before = time.process_time()

    def begin(self) -> None:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)

    def end(self) -> None:
        self.under_way -= 1

    def count(self, operation: str, *, received: int, sent: int, status: int) -> None:
        self.requests[operation] += 1
        self.received[operation] += received
        self.sent[operation] += sent
        if status >= 400:
            self.errors[f"{operation} {status}"] += 1

    def count_reset(self, operation: str) -> None:
        """A request that is never answered."""
        self.requests[operation] += 1
        self.errors[f"{operation} reset"] += 1

    def told(self) -> dict[str, object]:
        return {
            "requests": dict(self.requests),
            "received_bytes": dict(self.received),
            "sent_bytes": dict(self.sent),
            "errors": dict(self.errors),
            "connections": self.connections,
            "most_under_way": self.most_under_way,
            "cpu_seconds": time.process_time() - self._cpu_before,
        }

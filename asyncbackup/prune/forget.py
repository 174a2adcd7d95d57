"""Forgetting snapshots: a mark each at the destination. Nothing is deleted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.errors import ConfigError
from asyncbackup.prune.policy import Decision, KeepPolicy, decide
from asyncbackup.repository.open import open_repository
from asyncbackup.repository.parallel import in_parallel
from asyncbackup.repository.snapshots import forget_snapshot, list_snapshots

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

    from asyncbackup.config import SectionSettings, Settings


class ForgetSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What became of each snapshot, oldest first."""

    section: str
    decisions: tuple[Decision, ...]
    requests: dict[str, int]
    elapsed_seconds: float
    dry_run: bool = False

    @property
    def kept(self) -> int:
        return sum(decision.kept for decision in self.decisions)

    @property
    def forgotten(self) -> int:
        return len(self.decisions) - self.kept


async def forget_section(
    settings: Settings,
    section: SectionSettings,
    policy: KeepPolicy,
    *,
    dry_run: bool = False,
    zone: tzinfo | None = None,
    on_retry: Callable[[str], None] | None = None,
) -> ForgetSummary:
    """Forget the section's snapshots that no rule of ``policy`` keeps.

    They are no longer listed or restored, and a prune deletes what they alone
    need. No database is needed. ``dry_run`` writes nothing. Raises
    ``ConfigError`` for a policy without a rule, which would keep nothing, and
    as :func:`~asyncbackup.repository.open.open_repository`.
    """
    if not policy:
        raise ConfigError("nothing says which snapshots to keep; give at least one --keep option above 0")
    began = time.monotonic()
    async with open_repository(settings, section, on_retry=on_retry) as repository:
        snapshots = await list_snapshots(repository)
        decisions = decide([(info.id, info.started_ns) for info in snapshots], policy, zone=zone)

        async def mark(decision: Decision) -> None:
            await forget_snapshot(repository, decision.id)

        if not dry_run:
            doomed = [decision for decision in decisions if not decision.kept]
            await in_parallel(doomed, mark, limit=settings.concurrency)
        return ForgetSummary(
            section=section.name,
            decisions=tuple(decisions),
            requests=dict(repository.store.requests),
            elapsed_seconds=round(time.monotonic() - began, 3),
            dry_run=dry_run,
        )

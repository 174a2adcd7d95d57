"""The examination: in which order what is looked at, and what is not where something before it fails."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from asyncbackup.config import S3Settings, Settings
from asyncbackup.destination import is_remote, key_prefix_bytes
from asyncbackup.doctor import s3_keys, s3_objects, s3_parts
from asyncbackup.doctor.findings import Check, Finding, Level, examined, note, ok, problem
from asyncbackup.doctor.folder import FolderChecks, examine_place
from asyncbackup.doctor.reach import examine_way
from asyncbackup.doctor.s3_bucket import examine_bucket, examine_rules
from asyncbackup.doctor.s3_scope import Scope
from asyncbackup.doctor.section import (
    examine_database,
    examine_repository,
    examine_secret_files,
    examine_source,
)
from asyncbackup.errors import AccessDeniedError, ConfigError, StoreError
from asyncbackup.flow.cleanup import run_shielded
from asyncbackup.model import EMPTY_SHA256
from asyncbackup.store.open import open_store
from asyncbackup.store.retry import RetryPolicy
from asyncbackup.store.s3_location import s3_location
from asyncbackup.store.s3_probe import open_probe
from asyncbackup.units import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asyncbackup.config import SectionSettings
    from asyncbackup.doctor.findings import Report
    from asyncbackup.store.base import Store
    from asyncbackup.store.s3_probe import S3Probe
    from asyncbackup.traces import Traces

CONCURRENCY = 4
ATTEMPTS = 3
"""What an endpoint does not do it is not asked for during a minute."""
LONG_PREFIX_BYTES = 256
_WRITE_ADVICE = "the credentials need s3:PutObject there (docs/operations.md, The bucket)"


async def examine_section(
    settings: Settings, section: SectionSettings, report: Report, *, reachable: bool
) -> None:
    """One section: its own side first, then what is at its destination, if that is ``reachable``."""
    for finding in [
        *examine_source(section),
        *await examine_database(settings, section),
        *examine_secret_files(section),
    ]:
        report(finding)
    if reachable:
        for finding in await examine_repository(settings, section):
            report(finding)


async def examine_destination(
    destination: str,
    *,
    s3: S3Settings,
    traces: Traces,
    report: Report,
    doing: Callable[[str], None] = lambda _: None,
) -> bool:
    """A bucket or folder. Gives whether it can be reached and written to.

    What could not be removed afterwards is in ``traces``, also when this is cancelled.
    """
    if is_remote(destination):
        return await _examine_bucket(destination, s3, traces, report, doing)
    return await _examine_folder(destination, traces, report, doing)


async def _examine_folder(
    destination: str, traces: Traces, report: Report, doing: Callable[[str], None]
) -> bool:
    place = examine_place(destination)
    for finding in place:
        report(finding)
    if _has_problem(place):
        return False
    async with open_store(destination, s3=S3Settings(), concurrency=CONCURRENCY) as store:
        checks = FolderChecks(store, traces)
        return await _run_checks(
            store,
            traces,
            report,
            doing,
            [
                ("read-after-write", checks.read_after_write),
                ("conditional-writes", checks.conditional_writes),
                ("metadata", checks.metadata),
                ("names", checks.names),
            ],
        )


async def _examine_bucket(
    destination: str, s3: S3Settings, traces: Traces, report: Report, doing: Callable[[str], None]
) -> bool:
    try:
        async with open_probe(destination, s3=s3) as probe:
            report(ok("credentials", "credentials were found"))
            doing("the way there")
            if not _said(await examine_way(probe.endpoint_url), report):
                return False
            if not _said(await examine_bucket(probe), report):
                return False
            async with open_store(
                destination, s3=s3, concurrency=CONCURRENCY, policy=RetryPolicy(max_attempts=ATTEMPTS)
            ) as store:
                written = await _run_checks(store, traces, report, doing, _s3_checks(Scope(probe, traces)))
            if written:
                await _report_rules(probe, destination, report, doing)
            return written
    except AccessDeniedError as error:
        report(problem("credentials", error.reason, "see docs/operations.md, and 'aws configure'"))
    except ConfigError as error:
        report(problem("endpoint", str(error), "correct [s3] in the configuration"))
    return False


def _s3_checks(scope: Scope) -> list[tuple[str, Check]]:
    checks = {
        "read-after-write": s3_objects.read_after_write,
        "conditional-writes": s3_objects.conditional_writes,
        "checksums": s3_objects.checksums,
        "metadata": s3_objects.user_metadata,
        "copy": s3_objects.copies,
        "ranges": s3_objects.ranges,
        "multipart": s3_parts.multipart,
        "multipart-small-parts": s3_parts.small_parts,
        "multipart-order": s3_parts.part_order,
        "multipart-abort": s3_parts.aborts,
        "part-copy": s3_parts.part_copies,
        "listings": s3_keys.listings,
        "folder-objects": s3_keys.folders,
        "keys": s3_keys.ordinary_keys,
        "keys-apart": s3_keys.kept_apart,
    }
    return [(name, partial(check, scope)) for name, check in checks.items()]


async def _run_checks(
    store: Store,
    traces: Traces,
    report: Report,
    doing: Callable[[str], None],
    checks: Sequence[tuple[str, Check]],
) -> bool:
    """Run the checks and remove what they wrote. Where nothing can be written, only that is said."""
    try:
        doing("writing")
        key = traces.key("first")
        try:
            await store.put(key, b"", sha256=EMPTY_SHA256)
        except StoreError as error:
            traces.write_failed(key, error)
            report(problem("write", f"nothing can be written: {error}", _WRITE_ADVICE))
            return False
        report(ok("write", "objects can be written"))
        for name, check in checks:
            doing(name)
            for finding in await examined(name, check):
                report(finding)
    finally:
        doing("removing what was written")
        await run_shielded(traces.remove(store), what="removing what was written")
    report(_delete_finding(traces))
    return True


def _delete_finding(traces: Traces) -> Finding:
    if not traces.left:
        return ok("delete", "objects can be deleted")
    reason = traces.reasons[0] if traces.reasons else "the clean-up did not come to its end"
    if traces.denied:
        advice = f"delete {traces.prefix} with others; backups need none that may, prune does"
        return note("delete", "these credentials may not delete", advice)
    text = f"{plural(len(traces.left), 'object')} could not be deleted: {reason}"
    return note("delete", text, f"delete {traces.prefix} by hand")


async def _report_rules(
    probe: S3Probe, destination: str, report: Report, doing: Callable[[str], None]
) -> None:
    doing("rules of the bucket")
    prefix = s3_location(destination).prefix
    for finding in await examine_rules(probe, prefix=prefix):
        report(finding)
    if (size := key_prefix_bytes(destination)) > LONG_PREFIX_BYTES:
        text = f"the destination's prefix takes {size} of the 1,024 bytes of every key"
        report(note("prefix", text, "a shorter one leaves room for longer paths"))


def _said(findings: list[Finding], report: Report) -> bool:
    for finding in findings:
        report(finding)
    return not _has_problem(findings)


def _has_problem(findings: Sequence[Finding]) -> bool:
    return any(finding.level is Level.PROBLEM for finding in findings)

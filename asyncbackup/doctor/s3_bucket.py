"""The bucket: whether it can be reached, and what its owner set up for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from asyncbackup.doctor.findings import Finding, note, ok, problem
from asyncbackup.errors import AccessDeniedError, ObjectMissingError, StoreError

if TYPE_CHECKING:
    from asyncbackup.store.s3_probe import S3Probe

_NOT_READABLE = "these credentials may not ask, or the endpoint has none"
RULE_ADVICE = (
    "add a rule with AbortIncompleteMultipartUpload after 7 days (docs/operations.md, The bucket), "
    "for uploads of machines that never run again"
)


async def examine_bucket(probe: S3Probe) -> list[Finding]:
    """Is it there, may these credentials list it, and is it where it is thought to be?"""
    bucket = probe.location.bucket
    try:
        answer = await probe.call("head_bucket")
    except AccessDeniedError as error:
        if error.code not in ("AccessDenied", "403", "Forbidden"):
            return [problem("credentials", str(error), "correct the credentials or the clock")]
        text = f"the credentials may not list {bucket!r}, or are not known"
        return [note("bucket", text, "prunes of other machines go unnoticed; see docs/operations.md")]
    except ObjectMissingError:
        advice = "make it, or correct the destination; asyncbackup never makes a bucket"
        return [problem("bucket", f"there is no bucket {bucket!r} at {probe.endpoint_url}", advice)]
    except StoreError as error:
        return [problem("bucket", str(error), "see what the endpoint says, and docs/operations.md")]
    found = [ok("bucket", f"the bucket {bucket!r} is there")]
    region = answer.headers.get("x-amz-bucket-region", "")
    if region and region != probe.region:
        found.append(
            problem(
                "region",
                f"the bucket is in {region}, not in {probe.region}",
                f'set region = "{region}" in [s3]',
            )
        )
    elif region:
        found.append(ok("region", f"the bucket is in {region}"))
    return found


async def examine_rules(probe: S3Probe, *, prefix: str) -> list[Finding]:
    """Versioning, Object Lock and lifecycle, as far as they can be read."""
    return [await _versioning(probe), await _object_lock(probe), *await _lifecycle(probe, prefix)]


async def _versioning(probe: S3Probe) -> Finding:
    try:
        status = (await probe.call("get_bucket_versioning")).text("Status")
    except StoreError as error:
        return note("versioning", f"cannot be read ({error.code}): {_NOT_READABLE}")
    if status == "Enabled":
        advice = "expire noncurrent versions by a lifecycle rule, or prune frees nothing"
        return note("versioning", "versioning is on: what is deleted stays, and costs", advice)
    return ok("versioning", "versioning is suspended" if status else "versioning is off")


async def _object_lock(probe: S3Probe) -> Finding:
    try:
        answer = await probe.call("get_object_lock_configuration")
    except StoreError as error:
        if error.code in (
            "ObjectLockConfigurationNotFoundError",
            "NotFound",
            "NoSuchObjectLockConfiguration",
        ):
            return ok("object-lock", "Object Lock is off")
        return note("object-lock", f"cannot be read ({error.code}): {_NOT_READABLE}")
    configuration: Mapping[str, Any] = answer.fields.get("ObjectLockConfiguration", {})
    if configuration.get("ObjectLockEnabled") != "Enabled":
        return ok("object-lock", "Object Lock is off")
    retention: Mapping[str, Any] = dict(configuration.get("Rule", {})).get("DefaultRetention", {})
    if not retention:
        return ok("object-lock", "Object Lock is on, without a default retention")
    length = f"{retention['Days']} days" if "Days" in retention else f"{retention.get('Years')} years"
    text = f"Object Lock keeps everything for {length} ({str(retention.get('Mode', '')).lower()})"
    return note("object-lock", text, "prune frees nothing before that")


async def _lifecycle(probe: S3Probe, prefix: str) -> list[Finding]:
    try:
        answer = await probe.call("get_bucket_lifecycle_configuration")
    except StoreError as error:
        if error.code in ("NoSuchLifecycleConfiguration", "NotFound"):
            return [note("lifecycle", "no rule forgets unfinished uploads", RULE_ADVICE)]
        return [note("lifecycle", f"cannot be read ({error.code}): {_NOT_READABLE}")]
    return lifecycle_findings(answer.items("Rules"), prefix=prefix)


def lifecycle_findings(rules: Iterable[Mapping[str, Any]], *, prefix: str) -> list[Finding]:
    """What the rules mean for objects below ``prefix``."""
    found: list[Finding] = []
    forgets = False
    for rule in rules:
        if rule.get("Status") != "Enabled" or not _touches(rule, prefix):
            continue
        name = str(rule.get("ID") or "without a name")
        covers = prefix.startswith(_prefix_of(rule)) and not _narrowed(rule)
        forgets = forgets or (covers and "AbortIncompleteMultipartUpload" in rule)
        expiration: Mapping[str, Any] = rule.get("Expiration", {})
        if "Days" in expiration or "Date" in expiration:
            advice = "remove it, or keep it off this prefix: later snapshots need the objects of earlier runs"
            found.append(problem("lifecycle-expiration", f"the rule {name!r} deletes objects here", advice))
        for transition in rule.get("Transitions", ()):
            storage_class = str(transition.get("StorageClass", ""))
            if storage_class in ("GLACIER", "DEEP_ARCHIVE"):
                text = f"the rule {name!r} moves objects to {storage_class}, manifests too"
                advice = "they have to be thawed before anything can be restored, verified or pruned"
                found.append(note("lifecycle-archive", text, advice))
    if forgets:
        found.append(ok("lifecycle", "a rule forgets unfinished uploads"))
    else:
        found.append(note("lifecycle", "no rule forgets unfinished uploads", RULE_ADVICE))
    return found


def _filter_of(rule: Mapping[str, Any]) -> Mapping[str, Any]:
    filter_: Mapping[str, Any] = rule.get("Filter") or {}
    both: Mapping[str, Any] = filter_.get("And") or filter_
    return both


def _prefix_of(rule: Mapping[str, Any]) -> str:
    return str(_filter_of(rule).get("Prefix") or rule.get("Prefix") or "")


def _narrowed(rule: Mapping[str, Any]) -> bool:
    return any(
        name in _filter_of(rule) for name in ("Tag", "Tags", "ObjectSizeGreaterThan", "ObjectSizeLessThan")
    )


def _touches(rule: Mapping[str, Any], prefix: str) -> bool:
    """Whether the rule may apply to something below ``prefix``. asyncbackup's objects have no tags."""
    of_rule = _prefix_of(rule)
    tagged = any(name in _filter_of(rule) for name in ("Tag", "Tags"))
    return not tagged and (prefix.startswith(of_rule) or of_rule.startswith(prefix))

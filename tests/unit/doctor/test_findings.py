"""What is concluded from what was seen."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from asyncbackup.doctor.findings import Level
from asyncbackup.doctor.machine import wrong_versions
from asyncbackup.doctor.reach import clock_finding
from asyncbackup.doctor.s3_bucket import lifecycle_findings

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("ahead", "level"),
    [(0, Level.OK), (100, Level.OK), (-300, Level.NOTE), (300, Level.NOTE), (1000, Level.PROBLEM)],
)
def test_clocks(ahead: int, level: Level) -> None:
    head = f"HTTP/1.1 200 OK\r\nDATE: {formatdate(NOW - ahead, usegmt=True)}\r\n\r\n".encode()
    found = clock_finding(head, NOW)
    assert found.level is level
    if level is not Level.OK:
        assert ("ahead of" if ahead > 0 else "behind") in found.text
        assert found.advice


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nDate: soon\r\n\r\n"])
def test_an_endpoint_without_a_clock(head: bytes) -> None:
    assert clock_finding(head, NOW).level is Level.NOTE


def test_libraries() -> None:
    requirements = [
        "msgspec>=0.1",
        "click<99,>=8.2",
        "pytest>=999 ; extra == 'dev'",
        "no-such-library>=1.0",
        "msgspec<5000,>=4000.1",
    ]
    found = list(wrong_versions(requirements))
    assert [each.text.partition(" ")[0] for each in found] == ["no-such-library", "msgspec"]
    assert all(each.level is Level.PROBLEM for each in found)
    assert found[1].advice == "pip install 'msgspec>=4000.1'"


def rule(**fields: object) -> dict[str, object]:
    return {"ID": "r", "Status": "Enabled", "Filter": {"Prefix": ""}, **fields}


TIDY = {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}}


@pytest.mark.parametrize(
    ("rules", "checks"),
    [
        ([], {"lifecycle": "note"}),
        ([rule(**TIDY)], {"lifecycle": "ok"}),
        ([rule(**TIDY, Filter={"Prefix": "backups/"})], {"lifecycle": "ok"}),
        ([rule(**TIDY, Filter={"Prefix": "backups/home/"})], {"lifecycle": "note"}),
        ([rule(**TIDY, Status="Disabled")], {"lifecycle": "note"}),
        ([rule(Expiration={"Days": 1})], {"lifecycle-expiration": "problem", "lifecycle": "note"}),
        ([rule(Expiration={"Days": 1}, Filter={"Prefix": "logs/"})], {"lifecycle": "note"}),
        ([rule(Expiration={"Days": 1}, Filter={"Tag": {"Key": "a", "Value": "b"}})], {"lifecycle": "note"}),
        ([rule(Expiration={"ExpiredObjectDeleteMarker": True})], {"lifecycle": "note"}),
        (
            [rule(Transitions=[{"Days": 1, "StorageClass": "GLACIER"}])],
            {"lifecycle-archive": "note", "lifecycle": "note"},
        ),
        ([rule(Transitions=[{"Days": 1, "StorageClass": "STANDARD_IA"}])], {"lifecycle": "note"}),
    ],
)
def test_lifecycle(rules: list[dict[str, object]], checks: dict[str, str]) -> None:
    found = lifecycle_findings(rules, prefix="backups/")
    assert {each.check: each.level.value for each in found} == checks

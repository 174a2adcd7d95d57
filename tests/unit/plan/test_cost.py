"""Money: what is billed of which objects."""

from __future__ import annotations

import pytest

from asyncbackup.plan.cost import cost_of
from asyncbackup.plan.forecast import Forecast, Objects
from asyncbackup.plan.prices import AWS_LIST, GB, KB


def forecast(*objects: tuple[int, float], manifest_bytes: int = 0, **requests: int) -> Forecast:
    return Forecast(
        layout="mirror",
        objects=tuple(Objects(count=count, size=size) for count, size in objects),
        requests=requests,
        own_requests={},
        sent_bytes=0,
        manifest_bytes=manifest_bytes,
    )


def test_standard_bills_what_there_is() -> None:
    cost = cost_of(forecast((1000, GB / 1000)), AWS_LIST, "STANDARD")
    assert cost.billed_bytes == GB
    assert cost.storage_month == pytest.approx(0.023)


@pytest.mark.parametrize("name", ["STANDARD_IA", "ONEZONE_IA", "GLACIER_IR"])
def test_small_objects_are_billed_as_128_kb(name: str) -> None:
    cost = cost_of(forecast((8192, 1), (1, GB)), AWS_LIST, name)
    assert cost.billed_bytes == 2 * GB


@pytest.mark.parametrize("name", ["GLACIER", "DEEP_ARCHIVE"])
def test_an_archived_object_has_an_index_that_is_billed_as_standard(name: str) -> None:
    price = AWS_LIST.classes[name].storage_per_gb_month
    cost = cost_of(forecast((1000, 0)), AWS_LIST, name)
    assert cost.billed_bytes == 1000 * 40 * KB
    assert cost.storage_month == pytest.approx(1000 * KB / GB * (32 * price + 8 * 0.023))


def test_manifests_are_standard_whatever_the_contents_are() -> None:
    cost = cost_of(forecast(manifest_bytes=GB), AWS_LIST, "DEEP_ARCHIVE")
    assert cost.storage_month == pytest.approx(0.023)


def test_only_large_objects_are_watched() -> None:
    below = cost_of(forecast((1000, 128 * KB - 1)), AWS_LIST, "INTELLIGENT_TIERING")
    above = cost_of(forecast((1000, 128 * KB)), AWS_LIST, "INTELLIGENT_TIERING")
    assert above.storage_month - below.storage_month == pytest.approx(0.0025, rel=0.001)


def test_requests_are_of_two_prices_and_parts_of_an_archive_are_standard() -> None:
    asked = forecast(PutObject=1000, HeadObject=1000)
    assert cost_of(asked, AWS_LIST, "STANDARD").requests == pytest.approx(0.0054)
    parts = forecast(CreateMultipartUpload=0, UploadPart=1000, CompleteMultipartUpload=1000)
    assert cost_of(parts, AWS_LIST, "DEEP_ARCHIVE").requests == pytest.approx(0.005 + 0.05)
    assert cost_of(parts, AWS_LIST, "STANDARD_IA").requests == pytest.approx(0.02)


def test_a_restore_pays_for_the_way_out_the_retrieval_and_the_requests() -> None:
    cost = cost_of(forecast((1000, GB / 1000)), AWS_LIST, "GLACIER_IR")
    assert cost.egress == pytest.approx(0.09)
    assert cost.restore == pytest.approx(0.09 + 0.03 + 0.01)

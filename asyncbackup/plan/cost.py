"""What a forecast costs at a price list."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from asyncbackup.plan.prices import GB, KB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncbackup.plan.forecast import Forecast
    from asyncbackup.plan.prices import ClassPrices, PriceList

READS = ("GetObject", "HeadObject")
PARTS = ("CreateMultipartUpload", "UploadPart")
MONITORED_BYTES = 128 * KB


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Money in the list's currency. ``billed_bytes`` are what ``storage_month`` is for, minimum sizes and
    overheads included; ``restore`` is a download of everything once, ``egress`` the part of it that the
    way out of the region costs."""

    requests: float
    storage_month: float
    billed_bytes: int
    restore: float
    egress: float


def cost_of(forecast: Forecast, prices: PriceList, storage_class: str) -> Cost:
    """What the forecast costs in one storage class. Raises ``KeyError`` for one without prices."""
    price = prices.classes[storage_class]
    standard = prices.classes["STANDARD"]
    content = 0.0
    index = 0
    monitored = 0
    for group in forecast.objects:
        content += group.count * (max(group.size, price.minimum_bytes) + price.overhead_bytes)
        index += group.count * price.index_bytes
        monitored += group.count if group.size >= MONITORED_BYTES else 0
    as_standard = index + forecast.manifest_bytes
    storage = content / GB * price.storage_per_gb_month + as_standard / GB * standard.storage_per_gb_month
    storage += monitored / 1000 * price.monitor_per_1000
    stored = forecast.stored_bytes
    egress = stored / GB * prices.egress_per_gb
    return Cost(
        requests=_requests(forecast.requests, price, standard)
        + _requests(forecast.own_requests, standard, standard),
        storage_month=storage,
        billed_bytes=round(content) + as_standard,
        restore=egress
        + stored / GB * price.retrieval_per_gb
        + forecast.object_count / 1000 * price.get_per_1000,
        egress=egress,
    )


def _requests(requests: Mapping[str, int], price: ClassPrices, standard: ClassPrices) -> float:
    total = 0.0
    for operation, count in requests.items():
        if operation in READS:
            total += count / 1000 * price.get_per_1000
        elif operation in PARTS and price.parts_as_standard:
            total += count / 1000 * standard.put_per_1000
        else:
            total += count / 1000 * price.put_per_1000
    return total

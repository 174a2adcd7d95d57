"""What storage and requests cost: AWS's list prices, or a file with those of somebody else."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.config_table import Document, Table
from asyncbackup.destination import STORAGE_CLASSES
from asyncbackup.errors import ConfigError
from asyncbackup.toml_lines import key_lines

if TYPE_CHECKING:
    from pathlib import Path

GB = 1024**3
"""What is billed as a gigabyte."""
KB = 1024
_FILE_LIMIT_BYTES = 1024 * 1024
_HIGHEST = 1_000_000.0
_LARGEST_MINIMUM_BYTES = GB


class ClassPrices(msgspec.Struct, frozen=True, kw_only=True):
    """The prices of one storage class, in the list's currency.

    ``put_per_1000`` is that of PUT, COPY, POST and LIST, ``get_per_1000`` of GET and HEAD. Objects
    smaller than ``minimum_bytes`` are billed as if they had them; ``overhead_bytes`` are billed
    beside each object, ``index_bytes`` too, but as STANDARD. ``monitor_per_1000`` is a month's price
    for watching an object of at least 128 KB. Where ``parts_as_standard``, what a multipart upload
    sends before its completion is billed as STANDARD.
    """

    storage_per_gb_month: float
    put_per_1000: float
    get_per_1000: float
    retrieval_per_gb: float = 0.0
    minimum_bytes: int = 0
    minimum_days: int = 0
    overhead_bytes: int = 0
    index_bytes: int = 0
    monitor_per_1000: float = 0.0
    parts_as_standard: bool = False


class PriceList(msgspec.Struct, frozen=True, kw_only=True):
    """Prices by storage class. ``source`` says whose and of when; ``egress_per_gb`` is for downloads."""

    source: str
    currency: str
    classes: dict[str, ClassPrices]
    egress_per_gb: float = 0.0


AWS_LIST = PriceList(
    source="AWS list prices, us-east-1, as of November 2025 (https://aws.amazon.com/s3/pricing/)",
    currency="USD",
    egress_per_gb=0.09,
    classes={
        "STANDARD": ClassPrices(storage_per_gb_month=0.023, put_per_1000=0.005, get_per_1000=0.0004),
        "REDUCED_REDUNDANCY": ClassPrices(
            storage_per_gb_month=0.024, put_per_1000=0.005, get_per_1000=0.0004
        ),
        "INTELLIGENT_TIERING": ClassPrices(
            storage_per_gb_month=0.023, put_per_1000=0.005, get_per_1000=0.0004, monitor_per_1000=0.0025
        ),
        "STANDARD_IA": ClassPrices(
            storage_per_gb_month=0.0125,
            put_per_1000=0.01,
            get_per_1000=0.001,
            retrieval_per_gb=0.01,
            minimum_bytes=128 * KB,
            minimum_days=30,
        ),
        "ONEZONE_IA": ClassPrices(
            storage_per_gb_month=0.01,
            put_per_1000=0.01,
            get_per_1000=0.001,
            retrieval_per_gb=0.01,
            minimum_bytes=128 * KB,
            minimum_days=30,
        ),
        "GLACIER_IR": ClassPrices(
            storage_per_gb_month=0.004,
            put_per_1000=0.02,
            get_per_1000=0.01,
            retrieval_per_gb=0.03,
            minimum_bytes=128 * KB,
            minimum_days=90,
        ),
        # Restored by "standard" retrieval, whose requests cost more than the GET that follows.
        "GLACIER": ClassPrices(
            storage_per_gb_month=0.0036,
            put_per_1000=0.03,
            get_per_1000=0.05,
            retrieval_per_gb=0.01,
            minimum_days=90,
            overhead_bytes=32 * KB,
            index_bytes=8 * KB,
            parts_as_standard=True,
        ),
        "DEEP_ARCHIVE": ClassPrices(
            storage_per_gb_month=0.00099,
            put_per_1000=0.05,
            get_per_1000=0.10,
            retrieval_per_gb=0.02,
            minimum_days=180,
            overhead_bytes=32 * KB,
            index_bytes=8 * KB,
            parts_as_standard=True,
        ),
        "EXPRESS_ONEZONE": ClassPrices(
            storage_per_gb_month=0.11, put_per_1000=0.00113, get_per_1000=0.00003, retrieval_per_gb=0.0006
        ),
    },
)


def read_prices(path: Path) -> PriceList:
    """The price list of a TOML file. Raises ``ConfigError`` that names every problem of it.

    ``source`` and ``[classes.STANDARD]`` are required: descriptor and manifests are always STANDARD.
    """
    text = _read(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    document = Document(str(path), key_lines(text))
    table = Table(document, (), values)
    for key in ("source", "classes"):
        if key not in table:
            table.problem(None, f"{key} is missing; docs/operations.md shows a price list")
    prices = PriceList(
        source=table.text("source", "", str),
        currency=table.text("currency", "USD", str),
        egress_per_gb=table.number("egress_per_gb", 0.0, 0, _HIGHEST),
        classes=_classes(table.table("classes")),
    )
    table.finish()
    document.check()
    if "STANDARD" not in prices.classes:
        raise ConfigError(f"{path}: [classes.STANDARD] is missing; manifests are of that class")
    return prices


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_LIMIT_BYTES + 1)
        if len(content) > _FILE_LIMIT_BYTES:
            raise ConfigError(f"{path}: over 1 MiB; this is no price list")
        return content.decode()
    except OSError as error:
        raise ConfigError(f"cannot read the price list {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8; TOML is always UTF-8") from None


def _classes(table: Table | None) -> dict[str, ClassPrices]:
    classes: dict[str, ClassPrices] = {}
    if table is None:
        return classes
    for name in table.keys():  # noqa: SIM118 - a Table is no mapping
        prices = table.table(name)
        if name not in STORAGE_CLASSES:
            table.problem(name, f"no storage class; accepted are {', '.join(STORAGE_CLASSES)}")
        if prices is not None:
            classes[name] = _class_prices(prices)
    table.finish()
    return classes


def _class_prices(table: Table) -> ClassPrices:
    for key in ("storage_per_gb_month", "put_per_1000", "get_per_1000"):
        if key not in table and not table.has_misspelt(key):
            table.problem(None, f"{key} is missing")
    prices = ClassPrices(
        storage_per_gb_month=table.number("storage_per_gb_month", 0.0, 0, _HIGHEST),
        put_per_1000=table.number("put_per_1000", 0.0, 0, _HIGHEST),
        get_per_1000=table.number("get_per_1000", 0.0, 0, _HIGHEST),
        retrieval_per_gb=table.number("retrieval_per_gb", 0.0, 0, _HIGHEST),
        minimum_bytes=table.whole("minimum_bytes", 0, 0, _LARGEST_MINIMUM_BYTES),
        minimum_days=table.whole("minimum_days", 0, 0, 10_000),
        overhead_bytes=table.whole("overhead_bytes", 0, 0, _LARGEST_MINIMUM_BYTES),
        index_bytes=table.whole("index_bytes", 0, 0, _LARGEST_MINIMUM_BYTES),
        monitor_per_1000=table.number("monitor_per_1000", 0.0, 0, _HIGHEST),
        parts_as_standard=table.flag("parts_as_standard", False),
    )
    table.finish()
    return prices

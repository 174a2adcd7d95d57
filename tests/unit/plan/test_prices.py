"""Price lists from files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncbackup.errors import ConfigError
from asyncbackup.plan.prices import read_prices

if TYPE_CHECKING:
    from pathlib import Path

STANDARD = """
[classes.STANDARD]
storage_per_gb_month = 0.006
put_per_1000 = 0
get_per_1000 = 0
"""


def test_a_price_list(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text('source = "a provider, 2026"\ncurrency = "EUR"\negress_per_gb = 0.01\n' + STANDARD)
    prices = read_prices(file)
    assert (prices.source, prices.currency, prices.egress_per_gb) == ("a provider, 2026", "EUR", 0.01)
    assert prices.classes["STANDARD"].storage_per_gb_month == 0.006


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("source = 1", "source"),
        (STANDARD, "source is missing"),
        ('source = "x"', "classes is missing"),
        ('source = "x"\n[classes.STANDART]\n', "no storage class"),
        ('source = "x"\n[classes.STANDARD]\nput_per_1000 = 0\nget_per_1000 = 0\n', "storage_per_gb_month"),
        ('source = "x"\nprice = 1\n' + STANDARD, "price"),
        ('source = "x"\n[classes.GLACIER]' + STANDARD.partition("]")[2], "[classes.STANDARD] is missing"),
        ("source =", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_prices(file)
    assert says in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the price list"):
        read_prices(tmp_path / "none.toml")

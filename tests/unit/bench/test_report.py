"""The page and its plots."""

from __future__ import annotations

from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest

from asyncbackup.bench.charts import HEIGHT, WIDTH, Series, line_chart
from asyncbackup.bench.report import html_report, latency_text
from asyncbackup.bench.runner import BenchResult
from asyncbackup.bench.schedule import BenchSettings


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00005, "50 µs"), (0.0008, "0.8 ms"), (0.0123, "12 ms"), (0.99, "990 ms"), (1.25, "1.2 s")],
)
def test_latencies(seconds: float, text: str) -> None:
    assert latency_text(seconds) == text


@pytest.mark.parametrize("highest", [1.5, 40.0, 5_000_000.0])
@pytest.mark.parametrize("base", [2.0, 10.0])
def test_everything_drawn_lies_within_the_picture(highest: float, base: float) -> None:
    series = [
        Series(name="<a>", points=((1, 1.0, 0.9, 1.2), (8, highest, highest * 0.5, highest * 1.2))),
        Series(name="b", points=((64, highest / 2),)),
    ]
    drawing = line_chart(series, title="t & t", x_label="x", y_text=str, y_base=base)
    root = ElementTree.fromstring(drawing)  # noqa: S314 - our own
    circles = root.findall(".//circle")
    assert len(circles) == 3
    for circle in circles:
        assert 0 <= float(circle.attrib["cx"]) <= WIDTH
        assert 0 <= float(circle.attrib["cy"]) <= HEIGHT
    # Larger is higher up and, at more requests, further right.
    first, second = circles[0].attrib, circles[1].attrib
    assert float(second["cy"]) < float(first["cy"])
    assert float(second["cx"]) > float(first["cx"])
    assert len(root.findall(".//line[@class='grid']")) >= 2


def test_nothing_measured_draws_nothing() -> None:
    assert line_chart([], title="t", x_label="x", y_text=str) == ""
    assert line_chart([Series(name="a", points=())], title="t", x_label="x", y_text=str) == ""


def test_names_from_outside_are_text() -> None:
    result = BenchResult(
        destination="s3://bucket/<script>",
        settings=BenchSettings(),
        measurements=(),
        left_out=("<b>",),
        out_of_time=(),
        requests={},
        bytes=0,
        elapsed_seconds=1.0,
        keeps_checksums=True,
    )
    page = html_report(result, (), version="1", now=datetime(2026, 1, 1, tzinfo=UTC), endpoint="http://<x>")
    assert "s3://bucket/&lt;script&gt; at http://&lt;x&gt;" in page
    assert "&lt;b&gt;: --max-bytes has no room for it" in page
    assert "<script" not in page

"""Which files are compressed to tell how well a tree compresses."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from asyncbackup.plan.sample import Sampler, measure

if TYPE_CHECKING:
    from pathlib import Path


def test_each_byte_has_the_same_chance_and_memory_is_bounded() -> None:
    sampler = Sampler(limit=50)
    for number in range(10_000):
        # One byte in eleven belongs to a file of 10 bytes.
        sampler.offer(b"%d" % number, 100 if number % 2 else 10, small=True)
    chosen = sampler.chosen(small=True)
    assert len(chosen) == 50
    assert sum(size == 100 for _, size in chosen) >= 40
    again = Sampler(limit=50)
    for number in range(10_000):
        again.offer(b"%d" % number, 100 if number % 2 else 10, small=True)
    assert again.chosen(small=True) == chosen


def test_ratios_tell_text_from_noise(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"one line like another\n" * 3000)
    (tmp_path / "noise").write_bytes(random.Random(1).randbytes(60_000))
    sampler = Sampler()
    sampler.offer(b"text", 66_000, small=True)
    sampler.offer(b"noise", 60_000, small=False)
    sampler.offer(b"gone", 100, small=False)
    sampler.offer(b"empty", 0, small=True)
    ratios = measure(tmp_path, sampler, zstd_level=3)
    assert ratios.small < 0.05
    assert ratios.packed < 0.05
    assert ratios.large == 1.0  # What does not shrink by a tenth stays as it is.
    assert (ratios.small_files, ratios.large_files) == (1, 1)


def test_nothing_but_regular_files_is_read(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    sampler = Sampler()
    sampler.offer(b"link", 100, small=True)
    assert measure(tmp_path, sampler, zstd_level=3).small_files == 0

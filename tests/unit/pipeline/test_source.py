"""Opening things below the root: long paths in stretches, symlinks at the end refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbackup.source import MAX_STRETCH_BYTES, _stretches, folder_descriptor, open_file, open_folder
from tests.unit.pipeline.walks import deep_tree

segments = st.integers(1, 255).map(lambda length: b"x" * length)


@given(path=st.lists(segments, min_size=1, max_size=60).map(b"/".join))
@settings(deadline=None, derandomize=True)
def test_stretches_are_short_enough_and_make_the_path(path: bytes) -> None:
    stretches = list(_stretches(path))
    assert b"/".join(stretches) == path
    assert all(0 < len(stretch) <= MAX_STRETCH_BYTES for stretch in stretches)


@pytest.mark.parametrize("levels", [1, 9, 10, 60])
def test_a_folder_at_any_depth(tmp_path: Path, levels: int) -> None:
    with deep_tree(tmp_path, levels, name=b"n" * 250) as top:
        folder = b"/".join([b"n" * 250] * levels)
        with folder_descriptor(os.fsencode(top), folder) as descriptor:
            assert os.listdir(descriptor) == ["file"]
            os.close(open_file(b"file", descriptor))


def test_the_root_may_be_reached_through_a_symlink_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "real/d").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    root = os.fsencode(tmp_path / "link")
    os.close(open_folder(root, b""))
    os.close(open_folder(root, b"d"))
    (tmp_path / "real/planted").symlink_to("d")
    with pytest.raises(NotADirectoryError):
        open_folder(root, b"planted")


def test_a_missing_stretch_leaves_no_descriptor_open(tmp_path: Path) -> None:
    with deep_tree(tmp_path, 20, name=b"n" * 250) as top:
        before = len(os.listdir("/proc/self/fd"))
        for levels in (10, 21):
            missing = b"/".join([b"n" * 250] * levels + [b"missing"])
            with pytest.raises(FileNotFoundError):
                open_folder(os.fsencode(top), missing)
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_is_opened_without_moving_its_atime(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    os.utime(path, ns=(1, 2))
    with folder_descriptor(os.fsencode(tmp_path), b"") as folder:
        descriptor = open_file(b"f", folder)
        assert os.read(descriptor, 1) == b"x"
        os.close(descriptor)
    assert path.stat().st_atime_ns == 1


def test_a_symlink_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "f").symlink_to("/etc/passwd")
    with (
        folder_descriptor(os.fsencode(tmp_path), b"") as folder,
        pytest.raises(OSError, match="symbolic links"),
    ):
        open_file(b"f", folder)

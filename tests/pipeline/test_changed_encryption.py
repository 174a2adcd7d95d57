"""Encryption switched on and off: every snapshot stays readable, and nobody can slip in a plain one."""

from __future__ import annotations

import base64
import logging
import os
import shutil
import sqlite3
from contextlib import asynccontextmanager, closing
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.catalog.catalog import Catalog
from asyncbackup.config import EncryptionSettings
from asyncbackup.engine import run_section
from asyncbackup.errors import AuthenticationError, FormatError, KeyUnlockError, RepositoryMissingError
from asyncbackup.format.descriptor import FLOOR
from asyncbackup.format.envelope import MAGIC
from asyncbackup.format.manifest import ManifestTrailer
from asyncbackup.initialise import create_database
from asyncbackup.model import RunId
from asyncbackup.rebuild.section import rebuild_section
from asyncbackup.repository.create import create_repository
from asyncbackup.repository.manifest_stream import ManifestStream
from asyncbackup.repository.manifests import ManifestUpload, read_header
from asyncbackup.repository.open import open_repository
from asyncbackup.repository.vouching import may_have_base, plain_manifests
from asyncbackup.verify.section import verify_section
from tests.pipeline.repository_fixtures import save, write_manifest
from tests.workbench import Workbench, picture

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from asyncbackup.format.manifest import ManifestHeader
    from asyncbackup.model import RunSummary
    from asyncbackup.rebuild.summary import Unrecovered
    from asyncbackup.repository.open import Repository
    from asyncbackup.verify.summary import VerifySummary
    from tests.servers import S3Endpoint

PLANTED = RunId("20991231T235959Z-ffff")


class Switched(Workbench):
    """A section at a folder whose encryption is switched between its runs."""

    def __init__(self, base: Path) -> None:
        self.destination = base / "destination"
        self.destination.mkdir()
        super().__init__(base, f"file://{self.destination}")
        self.secret = base / "secret"
        self.secret.touch(mode=0o600)
        self.secret.write_text("correct horse\n")
        self.pictures: dict[str, dict[bytes, tuple[object, ...]]] = {}
        """What the tree was at each snapshot."""

    async def switch(self, enabled: bool) -> None:
        """Encrypt from now on, or not any more, the secret still being named."""
        self.configure(encryption=EncryptionSettings(enabled=enabled, passphrase_file=self.secret))
        await create_repository(self.settings, self.section, cost=FLOOR)

    async def save(self, name: str, content: bytes = b"content") -> RunSummary:
        """Add a file and run."""
        self.write(name, content)
        summary = await self.run()
        self.pictures[summary.snapshot] = picture(self.tree)
        return summary

    async def restores_all(self) -> None:
        for run, seen in self.pictures.items():
            assert picture(await self.restored(snapshot=run, name=f"restored-{run}")) == seen
            shutil.rmtree(self.base / f"restored-{run}")

    async def verified(self) -> VerifySummary:
        return await verify_section(self.settings, self.section, read_percent=100)

    async def rebuild(self) -> None:
        self.settings.database_path("home").unlink()
        await rebuild_section(self.settings, self.section)

    async def header(self, run: str) -> ManifestHeader:
        async with open_repository(self.settings, self.section) as repository:
            return await read_header(repository, run)

    def manifest(self, run: str) -> Path:
        return self.destination / "home" / "snapshots" / f"{run}.jsonl.zst"

    def is_sealed(self, run: str) -> bool:
        return self.manifest(run).read_bytes().startswith(MAGIC)


@pytest.fixture(params=["mirror", "packed"])
async def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Switched:
    """In both layouts."""
    bench = Switched(tmp_path)
    if request.param == "packed":
        bench.configure(packed=True, zstd_level=3)
    await bench.initialise()
    return bench


def digest_of(path: Path) -> str:
    return base64.b64encode(sha256(path.read_bytes()).digest()).decode()


async def test_switched_on_both_snapshots_restore(bench: Switched) -> None:
    plain = (await bench.save("a", b"before")).snapshot
    await bench.switch(True)
    summary = await bench.save("b", b"after " * 1000)
    assert summary.files_new == 1, "what was saved before is not uploaded again"
    assert (bench.is_sealed(plain), bench.is_sealed(summary.snapshot)) == (False, True)
    data = bench.destination / "home" / "data" / summary.snapshot
    sealed = [path for path in _files_below(data) if path.stat().st_size]
    assert sealed
    assert all(path.read_bytes().startswith(MAGIC) for path in sealed)
    assert (await bench.header(summary.snapshot)).plain == {plain: digest_of(bench.manifest(plain))}
    await bench.restores_all()
    assert not (await bench.verified()).damaged


async def test_after_a_rebuild_both_kinds_are_known(bench: Switched) -> None:
    await bench.save("a")
    await bench.switch(True)
    await bench.save("b")
    await bench.rebuild()
    assert (await bench.save("c")).files_new == 1, "the rebuilt database knows the rest"
    await bench.restores_all()


async def test_switched_off_and_on_again_all_restore(bench: Switched) -> None:
    first = (await bench.save("a")).snapshot
    await bench.switch(True)
    second = (await bench.save("b")).snapshot
    await bench.switch(False)
    third = (await bench.save("c", b"plain again")).snapshot
    assert not bench.is_sealed(third)
    data = bench.destination / "home" / "data" / third
    assert not any(path.read_bytes().startswith(MAGIC) for path in _files_below(data))
    assert (await bench.header(third)).plain is msgspec.UNSET
    await bench.restores_all()
    assert not (await bench.verified()).damaged
    await bench.rebuild()
    await bench.restores_all()
    await bench.switch(True)
    fourth = (await bench.save("d")).snapshot
    assert (await bench.header(fourth)).plain == {
        run: digest_of(bench.manifest(run)) for run in (first, third)
    }
    assert bench.is_sealed(second)
    await bench.restores_all()
    assert not (await bench.verified()).damaged


async def test_a_content_that_is_there_in_clear_is_sealed_nevertheless(bench: Switched) -> None:
    await bench.save("a", b"the same content" * 50)
    await bench.switch(True)
    await bench.save("b", b"the same content" * 50)
    entries = await bench.entries()
    extents = {name: entries[name].extent for name in (b"a", b"b")}
    assert {name: extent.encrypted for name, extent in extents.items() if extent} == {b"a": False, b"b": True}


async def test_objects_of_both_kinds_are_recovered_with_encryption_disabled(bench: Switched) -> None:
    """Without manifests nobody vouches for a plain object, so an encrypted section does not take it."""
    await bench.save("before", b"plain")
    await bench.switch(True)
    await bench.save("after", b"sealed")
    for path in (bench.destination / "home" / "snapshots").iterdir():
        path.unlink()
    bench.settings.database_path("home").unlink()
    told: list[Unrecovered] = []
    await rebuild_section(bench.settings, bench.section, from_objects=True, on_unrecovered=told.append)
    assert [found.lost for found in told] == [True]
    assert "it is not encrypted, but the section is" in told[0].reason
    await bench.switch(False)
    summary = await rebuild_section(bench.settings, bench.section, from_objects=True)
    assert summary.files == 2
    restored = await bench.restored(name="both")
    assert (restored / "before").read_bytes() == b"plain"
    assert (restored / "after").read_bytes() == b"sealed"


async def test_a_lost_descriptor_stops_the_run_and_comes_back_from_the_database(bench: Switched) -> None:
    await bench.switch(True)
    await bench.save("a")
    descriptor = bench.destination / "asyncbackup.json"
    kept = descriptor.read_bytes()
    descriptor.unlink()
    with pytest.raises(RepositoryMissingError, match=r"holds no asyncbackup\.json"):
        await bench.run()
    with closing(sqlite3.connect(bench.settings.database_path("home"))) as database:
        ((found,),) = database.execute("SELECT value FROM meta WHERE name = 'descriptor'").fetchall()
    assert found == kept
    descriptor.write_bytes(found)
    await bench.save("b")
    await bench.restores_all()


async def test_without_the_secret_only_what_is_plain_is_read(bench: Switched) -> None:
    plain = (await bench.save("a")).snapshot
    await bench.switch(True)
    sealed = (await bench.save("b")).snapshot
    bench.configure(encryption=EncryptionSettings())
    await bench.restored(snapshot=plain)
    with pytest.raises(KeyUnlockError, match=rf"{sealed}.* is encrypted, but section 'home' names no secret"):
        await bench.restored(snapshot=sealed, name="nothing")


async def test_a_wrong_secret_of_a_section_that_is_not_encrypted_any_more(bench: Switched) -> None:
    await bench.switch(True)
    await bench.save("a")
    await bench.switch(False)
    bench.secret.write_text("wrong\n")
    with pytest.raises(KeyUnlockError, match="opens none"):
        await bench.run()


async def test_a_secret_that_nothing_was_sealed_with_is_no_error(bench: Switched) -> None:
    await bench.switch(False)
    assert (await bench.save("a")).files_new == 1


async def test_what_is_vouched_for_is_carried_over_without_reading_it_again(bench: Switched) -> None:
    plain = [(await bench.save(name)).snapshot for name in "ab"]
    await bench.switch(True)
    first = await bench.save("c")
    second = await bench.save("d")
    assert first.requests["GetObject"] == 1 + 2 * 2, "the descriptor; the beginning and the whole of two"
    assert second.requests["GetObject"] == 1, "the descriptor"
    expected = {run: digest_of(bench.manifest(run)) for run in plain}
    assert (await bench.header(second.snapshot)).plain == expected
    await bench.rebuild()
    third = (await bench.save("e")).snapshot
    assert (await bench.header(third)).plain == expected
    bench.manifest(plain[0]).unlink()
    fourth = (await bench.save("f")).snapshot
    assert (await bench.header(fourth)).plain == {plain[1]: expected[plain[1]]}


async def test_a_section_that_always_was_encrypted_asks_for_nothing_more(bench: Switched) -> None:
    await bench.switch(True)
    first, second = await bench.save("a"), await bench.save("b")
    assert first.requests["ListObjectsV2"] == 2, "the prunes; is there anything to vouch for?"
    assert second.requests["ListObjectsV2"] == 1, "the prunes"
    assert (await bench.header(second.snapshot)).plain is msgspec.UNSET


async def test_of_very_many_plain_manifests_the_newest_are_vouched_for(
    bench: Switched, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [(await bench.save(name)).snapshot for name in "abc"]
    await bench.switch(True)
    async with _opened(bench) as (repository, catalog):
        with caplog.at_level(logging.WARNING):
            vouched = await plain_manifests(repository, catalog, limit=2)
    assert sorted(vouched) == runs[1:]
    assert "there are 3 snapshots from before encryption; the newest 2 can be read" in caplog.text


async def test_a_difference_never_crosses_the_switch(bench: Switched) -> None:
    for number in range(20):
        bench.write(f"file {number}")
    based: list[tuple[bool, bool]] = []
    for enabled in (False, False, True, True, False, False):
        if based and based[-1][0] is not enabled:
            await bench.switch(enabled)
            async with _opened(bench) as (repository, catalog):
                assert not await may_have_base(repository, catalog)
        header = await bench.header((await bench.save(f"another {len(based)}")).snapshot)
        based.append((enabled, header.base is not None))
    assert based == [
        (False, False),
        (False, True),
        (True, False),
        (True, True),
        (False, False),
        (False, True),
    ]
    await bench.restores_all()
    # A chain of plain snapshots is vouched for whole.
    await bench.switch(True)
    await bench.save("the last")
    await bench.restores_all()
    assert not (await bench.verified()).damaged


async def test_a_manifest_that_was_sealed_can_be_written_sealed_again(bench: Switched) -> None:
    """As a prune does that revises snapshots of a time when the section was encrypted."""
    await bench.switch(True)
    run = (await bench.save("a")).snapshot
    before = await bench.entries(run)
    await bench.switch(False)
    async with open_repository(bench.settings, bench.section) as repository:
        async with ManifestStream(repository, run) as stream:
            assert stream.sealed
            header = stream.header
        bench.manifest(run).unlink()
        async with ManifestUpload(repository, header, sealed=True) as upload:
            await upload.add(list(before.values()))
            await upload.commit(ManifestTrailer(finished_ns=1))
    assert bench.is_sealed(run)
    assert await bench.entries(run) == before


async def test_a_swapped_base_of_a_plain_snapshot_is_refused(bench: Switched) -> None:
    for number in range(20):
        bench.write(f"file {number}")
    base, upon = (await bench.save("a")).snapshot, (await bench.save("b")).snapshot
    assert (await bench.header(upon)).base == base
    await bench.switch(True)
    await bench.save("c")
    await _plant(bench, RunId(base))
    with pytest.raises(FormatError, match=rf"{base}|{upon}"):
        await bench.restored(snapshot=upon)
    assert not _files_below(bench.base / "restored")


async def test_a_rebuilt_database_knows_how_its_snapshot_was_written(bench: Switched) -> None:
    for enabled in (False, True, False):
        await bench.switch(enabled)
        await bench.save(f"file of {enabled}")
        await bench.rebuild()
        async with _opened(bench) as (repository, catalog):
            assert await may_have_base(repository, catalog)


async def test_a_planted_plain_manifest_is_an_error_that_names_it(bench: Switched) -> None:
    plain = (await bench.save("a")).snapshot
    await bench.switch(True)
    sealed = (await bench.save("b")).snapshot
    await _plant(bench, PLANTED)
    said = rf"{PLANTED}.*is not encrypted, but section 'home' is.*newest encrypted one, {sealed}, does not"
    with pytest.raises(AuthenticationError, match=said):
        await bench.restored()
    assert not _files_below(bench.base / "restored")
    verified = await bench.verified()
    assert [damage.key for damage in verified.damaged] == [f"home/snapshots/{PLANTED}.jsonl.zst"]
    await bench.restored(snapshot=plain, name="plain")
    await bench.rebuild()
    async with Catalog.open(
        bench.settings.database_path("home"), section="home", destination=bench.section.destination
    ) as catalog:
        assert await catalog.runs.last_snapshot() == sealed


async def test_a_planted_manifest_is_vouched_for_by_nobody(bench: Switched) -> None:
    """Neither by the next run, nor by one whose database was lost or made anew."""
    plain = (await bench.save("a")).snapshot
    await bench.switch(True)
    await bench.save("b")
    planted = RunId(plain[:-1] + ("0" if plain[-1] != "0" else "1"))
    await _plant(bench, planted)
    expected = {plain: digest_of(bench.manifest(plain))}
    assert (await bench.header((await bench.save("c")).snapshot)).plain == expected
    await bench.rebuild()
    assert (await bench.header((await bench.save("d")).snapshot)).plain == expected
    bench.settings.database_path("home").unlink()
    await create_database(bench.settings, bench.section)
    assert (await bench.header((await bench.save("e")).snapshot)).plain == expected


async def test_what_was_found_stays_found_when_the_run_is_killed(bench: Switched) -> None:
    """Between looking and the commit, and between the commit and the catalog, others may plant."""
    plain = (await bench.save("a")).snapshot
    await bench.switch(True)
    async with _opened(bench) as (repository, catalog):
        assert list(await plain_manifests(repository, catalog)) == [plain]
    planted = RunId(plain[:-1] + ("0" if plain[-1] != "0" else "1"))
    await _plant(bench, planted)
    header = await bench.header((await bench.save("b")).snapshot)
    assert header.plain == {plain: digest_of(bench.manifest(plain))}


async def test_with_all_encrypted_manifests_deleted_the_plain_ones_are_refused(bench: Switched) -> None:
    plain = (await bench.save("a")).snapshot
    await bench.switch(True)
    sealed = (await bench.save("b")).snapshot
    bench.manifest(sealed).unlink()
    with pytest.raises(AuthenticationError, match=rf"{plain}.* is not encrypted.*there is no other one"):
        await bench.restored()
    assert {damage.key for damage in (await bench.verified()).damaged} == {
        f"home/snapshots/{run}.jsonl.zst" for run in (plain, sealed)
    }
    await bench.switch(False)
    await bench.restored(snapshot=plain, name="with encryption disabled")


async def test_a_vouched_manifest_that_was_swapped_is_refused(bench: Switched) -> None:
    first = (await bench.save("a")).snapshot
    second = (await bench.save("b")).snapshot
    await bench.switch(True)
    await bench.save("c")
    await _plant(bench, RunId(second), path=b"evil")
    with pytest.raises(AuthenticationError, match="not what an encrypted snapshot vouches for"):
        await bench.header(second)
    with pytest.raises(AuthenticationError, match=rf"{second}.* not what an encrypted snapshot vouches for"):
        await bench.restored(snapshot=second)
    assert not _files_below(bench.base / "restored")
    assert [damage.key for damage in (await bench.verified()).damaged] == [
        f"home/snapshots/{second}.jsonl.zst"
    ]
    await bench.restored(snapshot=first, name="first")


async def test_an_encrypted_manifest_is_not_to_be_replaced_by_a_plain_one(bench: Switched) -> None:
    await bench.save("a")
    await bench.switch(True)
    older, newer = (await bench.save("b")).snapshot, (await bench.save("c")).snapshot
    for run in (older, newer):
        kept = bench.manifest(run).read_bytes()
        await _plant(bench, RunId(run))
        with pytest.raises(AuthenticationError, match=f"{run}.* is not encrypted"):
            await bench.restored(snapshot=run)
        bench.manifest(run).write_bytes(kept)


async def test_a_damaged_newest_encrypted_manifest_is_named(bench: Switched) -> None:
    plain = (await bench.save("a")).snapshot
    await bench.switch(True)
    sealed = (await bench.save("b")).snapshot
    content = bytearray(bench.manifest(sealed).read_bytes())
    content[-1] ^= 1
    bench.manifest(sealed).write_bytes(content)
    with pytest.raises(AuthenticationError, match=f"{sealed}.* is not authentic"):
        await bench.restored(snapshot=plain)


async def test_a_further_name_of_a_sealed_file_in_a_plain_run(bench: Switched) -> None:
    await bench.switch(True)
    first = bench.write("first", b"linked " * 1000)
    os.link(first, bench.tree / "second")
    await bench.save("a")
    await bench.switch(False)
    os.link(first, bench.tree / "third")
    await bench.save("b")
    await bench.restores_all()
    assert not (await bench.verified()).damaged


async def test_switched_on_and_off_at_a_server(tmp_path: Path, seaweed_s3: S3Endpoint) -> None:
    bench = Switched(tmp_path)
    bench.configure(destination=f"s3://{seaweed_s3.fresh_bucket()}/prefix")
    bench.settings = msgspec.structs.replace(bench.settings, s3=seaweed_s3.settings())
    await bench.initialise()
    await bench.save("a")
    for enabled in (True, False, True):
        await bench.switch(enabled)
        await bench.save(f"file of {enabled} {len(bench.pictures)}")
    await bench.restores_all()
    assert not (await bench.verified()).damaged


async def test_two_sections_of_one_destination_one_of_them_encrypted(tmp_path: Path) -> None:
    bench = Switched(tmp_path)
    await bench.initialise()
    run = (await bench.save("a")).snapshot
    other = msgspec.structs.replace(
        bench.section,
        name="mail",
        encryption=EncryptionSettings(enabled=True, passphrase_file=bench.secret),
    )
    await create_database(bench.settings, other)
    sealed = (await run_section(bench.settings, other)).snapshot
    assert (bench.destination / "mail" / "snapshots" / f"{sealed}.jsonl.zst").read_bytes().startswith(MAGIC)
    again = (await bench.save("b")).snapshot
    assert not bench.is_sealed(again)
    await bench.restores_all()
    for section in (bench.section, other):
        assert not (await verify_section(bench.settings, section, read_percent=100)).damaged
    # A manifest of the plain section is none of the encrypted one's.
    stolen = bench.destination / "mail" / "snapshots" / f"{run}.jsonl.zst"
    stolen.write_bytes(bench.manifest(run).read_bytes())
    verified = await verify_section(bench.settings, other)
    assert [damage.key for damage in verified.damaged] == [f"mail/snapshots/{run}.jsonl.zst"]


@asynccontextmanager
async def _opened(bench: Switched) -> AsyncIterator[tuple[Repository, Catalog]]:
    database = bench.settings.database_path("home")
    async with (
        Catalog.open(database, section="home", destination=bench.section.destination) as catalog,
        open_repository(bench.settings, bench.section) as repository,
    ):
        yield repository, catalog


async def _plant(bench: Switched, run: RunId, *, path: bytes = b"planted") -> None:
    """A well-formed plain manifest at the key of ``run``, by somebody without the key."""
    bench.manifest(run).unlink(missing_ok=True)
    plain = msgspec.structs.replace(bench.section, encryption=EncryptionSettings())
    async with open_repository(bench.settings, plain) as repository:
        entries = (await save(repository, run, {path: b"evil"}, manifest=False)).values()
        await write_manifest(repository, run, entries)


def _files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]

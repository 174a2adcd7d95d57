"""Making and opening repositories: what is written, what is asked, what every mistake says."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.errors import (
    AccessDeniedError,
    CatalogError,
    FormatError,
    KeyUnlockError,
    RepositoryMissingError,
    StoreError,
)
from asyncbackup.format.descriptor import FLOOR, decode_descriptor
from asyncbackup.format.keys import DESCRIPTOR_KEY, README_KEY
from asyncbackup.format.readme import restore_readme
from asyncbackup.repository.create import create_repository
from asyncbackup.repository.key_slots import KeySlots
from asyncbackup.repository.open import open_repository
from asyncbackup.repository.secrets import Secret
from asyncbackup.store.open import open_store
from tests.pipeline.repository_fixtures import (
    FIRST,
    repository_at,
    save,
    settings_for,
)
from tests.servers.proxy import FaultProxy, answering, error_body

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asyncbackup.config import SectionSettings, Settings
    from tests.servers import S3Endpoint


async def test_creating_writes_descriptor_and_readme_once(tmp_path: Path, folder_destination: Path) -> None:
    settings, section = settings_for(tmp_path, f"file://{folder_destination}")
    made = await create_repository(settings, section)
    assert (made.created, made.slot_added, made.readme_written) == (True, False, True)
    assert sorted(os.listdir(folder_destination)) == ["RESTORE.md", "asyncbackup.json"]
    assert (folder_destination / DESCRIPTOR_KEY).read_bytes() == made.descriptor
    readme = restore_readme(destination=section.destination, sections=["home"], encrypted=False)
    assert (folder_destination / README_KEY).read_bytes() == readme
    assert decode_descriptor(made.descriptor).repository == made.repository_id

    (folder_destination / README_KEY).write_text("my own words")
    again = await create_repository(settings, section)
    assert (again.created, again.slot_added, again.readme_written) == (False, False, False)
    assert again.descriptor == made.descriptor
    assert (folder_destination / README_KEY).read_text() == "my own words"


async def test_creating_makes_a_missing_folder(tmp_path: Path) -> None:
    settings, section = settings_for(tmp_path, f"file://{tmp_path}/new/place")
    assert (await create_repository(settings, section)).created


@pytest.mark.parametrize("server", ["rclone_s3", "seaweed_s3"])
async def test_creating_and_opening_on_servers(
    tmp_path: Path, server: str, request: pytest.FixtureRequest
) -> None:
    endpoint: S3Endpoint = request.getfixturevalue(server)
    settings, section = settings_for(
        tmp_path, f"s3://{endpoint.fresh_bucket()}/deep/prefix", s3=endpoint.settings(), encrypted=True
    )
    made = await create_repository(settings, section, cost=FLOOR)
    assert made.created
    assert not (await create_repository(settings, section, cost=FLOOR)).created
    async with open_repository(settings, section) as repository:
        assert repository.repository_id == made.repository_id
        assert repository.descriptor_bytes == made.descriptor
        assert repository.key is not None


async def test_a_missing_bucket_is_not_taken_for_a_missing_repository(
    tmp_path: Path, seaweed_s3: S3Endpoint
) -> None:
    settings, section = settings_for(tmp_path, "s3://no-such-bucket-here", s3=seaweed_s3.settings())
    with pytest.raises(StoreError, match="no-such-bucket-here"):
        await create_repository(settings, section)


async def test_encryption_turned_on_later_adds_a_slot_to_the_same_repository(
    tmp_path: Path, folder_destination: Path
) -> None:
    url = f"file://{folder_destination}"
    plain = await create_repository(*settings_for(tmp_path, url))
    settings, section = settings_for(tmp_path, url, encrypted=True)
    with pytest.raises(KeyUnlockError, match="has no key slot; 'asyncbackup key add home' adds one"):
        async with open_repository(settings, section):
            pass
    made = await create_repository(settings, section, cost=FLOOR)
    assert (made.created, made.slot_added) == (False, True)
    assert made.repository_id == plain.repository_id
    async with open_repository(settings, section) as repository:
        assert repository.key is not None
    async with open_repository(*settings_for(tmp_path, url)) as repository:
        assert repository.key is None


@pytest.mark.parametrize("by_hand", [False, True])
async def test_with_the_first_slot_the_page_says_that_something_is_encrypted(
    tmp_path: Path, folder_destination: Path, by_hand: bool
) -> None:
    url = f"file://{folder_destination}"
    await create_repository(*settings_for(tmp_path, url, name="plain"))
    page = folder_destination / README_KEY
    assert b"Nothing here was encrypted then" in page.read_bytes()
    if by_hand:
        page.write_bytes(page.read_bytes() + b"my own words")
    before = page.read_bytes()
    made = await create_repository(*settings_for(tmp_path, url, encrypted=True), cost=FLOOR)
    assert made.readme_written is not by_hand
    if by_hand:
        assert page.read_bytes() == before
    else:
        assert page.read_bytes() == restore_readme(
            destination=url, sections=["home", "plain"], encrypted=True
        )
        assert not (await create_repository(*settings_for(tmp_path, url, encrypted=True))).readme_written


async def test_two_sections_share_one_key(tmp_path: Path, folder_destination: Path) -> None:
    url = f"file://{folder_destination}"
    keys = []
    for name in ("home", "mail"):
        async with repository_at(*settings_for(tmp_path, url, encrypted=True, name=name)) as repository:
            assert repository.key is not None
            keys.append(repository.key.reveal())
    assert keys[0] == keys[1]


async def test_a_wrong_pass_phrase_is_one_clear_line(tmp_path: Path, folder_destination: Path) -> None:
    settings, section = settings_for(tmp_path, f"file://{folder_destination}", encrypted=True)
    await create_repository(settings, section, cost=FLOOR)
    (tmp_path / "passphrase").write_text("another-phrase-7c\n")
    for opening in (create_repository(settings, section), _open(settings, section)):
        with pytest.raises(KeyUnlockError) as caught:
            await opening
        message = str(caught.value)
        assert message.startswith(
            "sections.home.encryption.passphrase_file: the given pass phrase opens none"
        )
        assert "\n" not in message
        assert "another-phrase-7c" not in message


async def test_a_key_file_opens_as_well(tmp_path: Path, folder_destination: Path) -> None:
    settings, section = settings_for(tmp_path, f"file://{folder_destination}", encrypted=True)
    key_file = tmp_path / "key"
    key_file.write_bytes(os.urandom(32))
    key_file.chmod(0o600)
    encryption = msgspec.structs.replace(section.encryption, passphrase_file=None, key_file=key_file)
    section = msgspec.structs.replace(section, encryption=encryption)
    await create_repository(settings, section)
    async with open_repository(settings, section) as repository:
        assert repository.key is not None


async def test_a_cached_descriptor_saves_every_request_where_no_secret_is_named(
    tmp_path: Path, folder_destination: Path
) -> None:
    settings, section = settings_for(tmp_path, f"file://{folder_destination}")
    made = await create_repository(settings, section)
    async with open_repository(
        settings, section, cached_descriptor=made.descriptor, expected_repository=made.repository_id
    ) as repository:
        assert repository.key is None
        assert not repository.store.requests
    async with open_repository(settings, section) as repository:
        assert repository.store.requests == {"GetObject": 1}
    async with open_repository(settings, section, cached_descriptor=b"{}") as repository:
        assert repository.descriptor_bytes == made.descriptor


async def test_a_removed_secret_opens_nothing_whatever_descriptor_is_cached(
    tmp_path: Path, folder_destination: Path
) -> None:
    settings, section = settings_for(tmp_path, f"file://{folder_destination}", encrypted=True)
    made = await create_repository(settings, section, cost=FLOOR)
    new = Secret(origin="the new one", passphrase=b"another")
    async with KeySlots.open(settings, section, cost=FLOOR) as slots:
        await slots.rotate(new)
    with pytest.raises(KeyUnlockError, match="opens none"):
        async with open_repository(settings, section, cached_descriptor=made.descriptor):
            pass
    (tmp_path / "passphrase").write_text("another\n")
    async with open_repository(settings, section, cached_descriptor=made.descriptor) as repository:
        assert repository.key is not None
        assert repository.descriptor_bytes != made.descriptor
        assert repository.store.requests == {"GetObject": 1}


async def test_a_descriptor_that_was_written_anew_is_opened_in_place_of_the_cached_one(
    tmp_path: Path, folder_destination: Path
) -> None:
    """While the key is still being derived for that one, with the cost that slots have by default."""
    settings, section = settings_for(tmp_path, f"file://{folder_destination}", encrypted=True)
    made = await create_repository(settings, section)
    (folder_destination / DESCRIPTOR_KEY).write_bytes(made.descriptor + b" ")
    async with open_repository(settings, section, cached_descriptor=made.descriptor) as repository:
        assert repository.key is not None
        assert repository.descriptor_bytes == made.descriptor + b" "


async def test_credentials_that_may_not_read_use_the_cached_descriptor(
    tmp_path: Path, rclone_s3: S3Endpoint
) -> None:
    async with FaultProxy(rclone_s3.url) as proxy:
        s3 = msgspec.structs.replace(rclone_s3.settings(), endpoint_url=proxy.url)
        url = f"s3://{rclone_s3.fresh_bucket()}"
        settings, section = settings_for(tmp_path, url, s3=s3, encrypted=True)
        made = await create_repository(settings, section, cost=FLOOR)
        denied = answering(403, error_body("AccessDenied"))
        proxy.plan("GetObject", denied, path=DESCRIPTOR_KEY, times=0)
        async with open_repository(settings, section, cached_descriptor=made.descriptor) as repository:
            assert repository.key is not None
        with pytest.raises(AccessDeniedError):
            await _open(settings, section)


async def test_another_repository_than_the_databases_is_refused(
    tmp_path: Path, folder_destination: Path
) -> None:
    settings, section = settings_for(tmp_path, f"file://{folder_destination}")
    await create_repository(settings, section)
    with pytest.raises(CatalogError, match="syncdb_remote"):
        async with open_repository(settings, section, expected_repository="0" * 32):
            pass


async def test_a_destination_without_a_repository_names_initdb(
    tmp_path: Path, folder_destination: Path
) -> None:
    with pytest.raises(RepositoryMissingError, match=r"holds no asyncbackup.json.*'asyncbackup initdb'"):
        await _open(*settings_for(tmp_path, f"file://{folder_destination}"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[: len(data) // 2], r"asyncbackup.json: .*put a good copy back"),
        (lambda data: b"", r"asyncbackup.json: "),
        (
            lambda data: data.replace(b'"format": 1', b'"format": 2'),
            "format 2, this asyncbackup reads format 1",
        ),
        (lambda data: b"<html>not here</html>", "asyncbackup.json"),
    ],
    ids=["truncated", "empty", "newer", "foreign"],
)
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
async def test_a_damaged_descriptor_is_named(
    tmp_path: Path, folder_destination: Path, change: Callable[[bytes], bytes], said: str, encrypted: bool
) -> None:
    settings, section = settings_for(tmp_path, f"file://{folder_destination}", encrypted=encrypted)
    made = await create_repository(settings, section, cost=FLOOR)
    (folder_destination / DESCRIPTOR_KEY).write_bytes(change(made.descriptor))
    with pytest.raises(FormatError, match=said):
        await _open(settings, section)
    with pytest.raises(FormatError, match=said):
        await create_repository(settings, section)


async def test_a_changed_key_slot_stays_shut(tmp_path: Path, folder_destination: Path) -> None:
    settings, section = settings_for(tmp_path, f"file://{folder_destination}", encrypted=True)
    made = await create_repository(settings, section, cost=FLOOR)
    document = json.loads(made.descriptor)
    slot = document["slots"][0]
    for field in ("wrapped", "nonce", "id"):
        kept = slot[field]
        slot[field] = ("B" if kept[0] == "A" else "A") + kept[1:] if field != "id" else kept[::-1]
        (folder_destination / DESCRIPTOR_KEY).write_text(json.dumps(document))
        with pytest.raises(KeyUnlockError):
            await _open(settings, section)
        slot[field] = kept


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
async def test_a_lost_descriptor_comes_back_where_nothing_hangs_on_its_slots(
    tmp_path: Path, folder_destination: Path, encrypted: bool
) -> None:
    settings, section = settings_for(tmp_path, f"file://{folder_destination}", encrypted=encrypted)
    async with repository_at(settings, section) as repository:
        await save(repository, FIRST, {b"a": b"content"})
        before = repository.repository_id
    (folder_destination / DESCRIPTOR_KEY).unlink()
    if encrypted:
        with pytest.raises(RepositoryMissingError, match=r"holds encrypted snapshots.*put a copy of it back"):
            await create_repository(settings, section)
        assert not (folder_destination / DESCRIPTOR_KEY).exists()
    else:
        made = await create_repository(settings, section)
        assert (made.created, made.repository_id) == (True, before)


async def test_lost_key_slots_are_not_replaced_by_new_ones(tmp_path: Path, folder_destination: Path) -> None:
    settings, section = settings_for(tmp_path, f"file://{folder_destination}", encrypted=True)
    async with repository_at(settings, section) as repository:
        await save(repository, FIRST, {b"a": b"content"})
        document = json.loads(repository.descriptor_bytes)
    document["slots"] = []
    (folder_destination / DESCRIPTOR_KEY).write_text(json.dumps(document))
    with pytest.raises(RepositoryMissingError, match="key slots"):
        await create_repository(settings, section)


async def _open(settings: Settings, section: SectionSettings) -> None:
    async with open_repository(settings, section):
        pass


async def test_the_store_is_closed_when_opening_fails(tmp_path: Path, folder_destination: Path) -> None:
    settings, section = settings_for(tmp_path, f"file://{folder_destination}")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(RepositoryMissingError):
            await _open(settings, section)
    assert len(os.listdir("/proc/self/fd")) == before
    async with open_store(section.destination, s3=settings.s3, concurrency=1) as store:
        assert store.url == section.destination

"""(e) Published answers of every primitive that the format is built from.

What is built from them has vectors of its own (tests/vectors), opened by two readers that share no code
(tests/unit/format/test_vectors.py).
"""

from __future__ import annotations

import hmac

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from asyncbackup.format.descriptor import Argon2idParameters, KeySlot
from asyncbackup.format.keyslots import new_master_key, open_slot, slot_binding
from tests.unit.format import independent_reader

REPOSITORY = "8f14e45fceea167a5a36dedd4bea2543"


class Gcm(msgspec.Struct, frozen=True):
    """AES-256-GCM, all in hexadecimal; ``sealed`` is the ciphertext and its tag."""

    key: str
    nonce: str
    plain: str
    associated: str
    sealed: str


KEY = "feffe9928665731c6d6a8f9467308308" * 2
NONCE = "cafebabefacedbaddecaf888"
PLAIN = (
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525"
    "b16aedf5aa0de657ba637b391aafd255"
)
SEALED = (
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838"
    "c5f61e6393ba7a0abcc9f662"
)
# McGrew and Viega, "The Galois/Counter Mode of Operation (GCM)", appendix B, test cases 13 to 16.
GCM = [
    Gcm("00" * 32, "00" * 12, "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
    Gcm(
        "00" * 32, "00" * 12, "00" * 16, "",
        "cea7403d4d606b6e074ec5d3baf39d18" + "d0d1c8a799996bf0265b98b5d48ab919",
    ),
    Gcm(KEY, NONCE, PLAIN, "", SEALED + "898015ad" + "b094dac5d93471bdec1a502270e3cc6c"),
    Gcm(
        KEY, NONCE, PLAIN[:120], "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        SEALED + "76fc6ece0f4e1768cddf8853bb2d551b",
    ),
]  # fmt: skip


class Hkdf(msgspec.Struct, frozen=True):
    """HKDF with SHA-512, all in hexadecimal."""

    secret: str
    salt: str
    info: str
    derived: str


# Project Wycheproof, testvectors_v1/hkdf_sha512_test.json, tcId 3, 10, 11, 12, 18 and 20.
HKDFS = [
    Hkdf(
        "a4748031a14d3e6aafe42aa20c568f5f", "", "",
        "62ea97e06051e40b79deb127a4da294f557cafa3d7a90a75c02064571dfbbe46"
        "99129bdcec4b39eed7757ce8e3571589f7d8f5523c0dc3fd6a56b099fb4bfd51",
    ),
    Hkdf(
        "c360e16084cfd13cb44b0dc02d8665de", "685ac7df93701d6c78babd847861bb3c",
        "e0ddfaaaa7afb53f59a007a205c7149b5b5a72be", "17408c6f8dd7eb8423758ce39a91b59020f7debe",
    ),
    Hkdf(
        "0cbd136d66d15a4ffefde1303b430821", "2614d80275b08a1cf90bae0eb607d4d5",
        "ee991de21aeb6baa6a5f683dbb755e6f80db1c1d",
        "e51c3bfe5f4e9b4fb0d3c3a67bb33a20c288800e03707621cf143e8581d422dfec3fe658ba8fa2e35c2c",
    ),
    Hkdf(
        "7a00817689a3d79001825a864c69c120", "08bc01c053a6406c7c4a667c9b9b3894",
        "967ccd75395be6e96a67759f070487c9e2107791",
        "aed987bcc5ed33c4feec7b28aa9fe1c16b1181e00ff42c63cf692ec19242f6d4"
        "628604b3382db0806d5e61518f83fc651e6f3bd0a9d1322926a76869b98b75d6",
    ),
    Hkdf(
        "d515f58eed428b2bac233c8538580e2f",
        "c2a3ad9db6621fceb7498c0e6287522077acd2d47b55c09d52e114943b37",
        "14de8cffd89e49275f69d2e1e6b43fa0c3775451",
        "04039af015d1b63b0af171e0fc283c06d19a0e4b1093fa5f8c721d85580c5279"
        "9f13d644543c2249497492f55029ce9cd19a29cd84acbc1488724941a3fc97fc",
    ),
    Hkdf(
        "24a37db03dbcffbe9e28d582d0d8c60a",
        "4c3d3b4f5436418713fbe2fbc4d647095ce5d5392dcfffd20327187e14fb6836"
        "0b94c5122203292d8b648a754ab70f6d3d61e0650f06d55c4b5762cba0231e27",
        "8cd9e7b786a74bd370bae434e31a559bdf75d65f",
        "ea18185ff290f27480f625404a39d56582a1bcd8f74f97cfccb898ddf2611833ed57fa46e88e145b604d",
    ),
]  # fmt: skip

# The reference implementation's own tests (phc-winner-argon2, src/test.c): version 0x13, two passes over
# 64 MiB in one lane.
ARGON2ID = [
    (b"password", b"somesalt", "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7"),
    (b"password", b"diffsalt", "bdf32b05ccc42eb15d58fd19b1f856b113da1e9a5874fdcc544308565aa8141c"),
]


@pytest.mark.parametrize("vector", GCM, ids=["13", "14", "15", "16"])
def test_aes_256_gcm(vector: Gcm) -> None:
    nonce, plain, associated = (
        bytes.fromhex(text) for text in (vector.nonce, vector.plain, vector.associated)
    )
    aead = AESGCM(bytes.fromhex(vector.key))
    assert aead.encrypt(nonce, plain, associated).hex() == vector.sealed
    assert aead.decrypt(nonce, bytes.fromhex(vector.sealed), associated) == plain


@pytest.mark.parametrize("vector", HKDFS, ids=["3", "10", "11", "12", "18", "20"])
def test_hkdf_sha_512(vector: Hkdf) -> None:
    secret, salt, info, derived = (
        bytes.fromhex(text) for text in (vector.secret, vector.salt, vector.info, vector.derived)
    )
    assert HKDF(SHA512(), len(derived), salt, info).derive(secret) == derived
    extracted = hmac.digest(salt, secret, "sha512")
    assert HKDFExpand(SHA512(), len(derived), info).derive(extracted) == derived
    assert independent_reader.hkdf_expand(extracted, info, len(derived)) == derived


def test_argon2id() -> None:
    """RFC 9106, section 5.3."""
    derive = Argon2id(
        salt=b"\2" * 16, length=32, iterations=3, lanes=4, memory_cost=32, ad=b"\4" * 12, secret=b"\3" * 8
    )
    tag = "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"
    assert derive.derive(b"\1" * 32).hex() == tag


@pytest.mark.parametrize(("passphrase", "salt", "derived"), ARGON2ID, ids=["somesalt", "diffsalt"])
def test_a_slot_wrapped_by_a_published_key_opens_with_its_pass_phrase(
    passphrase: bytes, salt: bytes, derived: str
) -> None:
    key = new_master_key()
    kdf = Argon2idParameters(salt=salt, iterations=2, memory_kib=64 * 1024, lanes=1)
    binding = slot_binding(REPOSITORY, "0" * 16, kdf)
    wrapped = AESGCM(bytes.fromhex(derived)).encrypt(b"n" * 12, key.reveal(), binding)
    slot = KeySlot(id="0" * 16, kind="passphrase", kdf=kdf, nonce=b"n" * 12, wrapped=wrapped)
    opened = open_slot(REPOSITORY, slot, passphrase=passphrase)
    assert opened is not None
    assert opened.reveal() == key.reveal()
    assert open_slot(REPOSITORY, slot, passphrase=passphrase + b"!") is None


@pytest.mark.parametrize(
    ("key", "message", "digest"),
    [
        (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
    ],
    ids=["1", "2"],
)
def test_hmac_sha_256(key: bytes, message: bytes, digest: str) -> None:
    """RFC 4231, test cases 1 and 2: what hidden names are made with."""
    assert hmac.digest(key, message, "sha256").hex() == digest

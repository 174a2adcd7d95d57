"""One AES-GCM ciphertext that opens under two keys, as any cipher without key commitment allows.

The tag is a polynomial in a field of 2¹²⁸ elements with the ciphertext's blocks as coefficients, so one
block that is free can be chosen to make two keys agree on it.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_R = 0xE1 << 120


def open_under_both(first: tuple[bytes, bytes], second: tuple[bytes, bytes]) -> bytes:
    """Two blocks of ciphertext and their tag, authentic for both pairs of key and 12-byte nonce."""
    begin = int.from_bytes(b"anything you say")
    lengths = 2 * 128  # no associated data, then the bits of the ciphertext
    h1, h2 = (_block(key, bytes(16)) for key, _ in (first, second))
    masks = _block(first[0], first[1] + b"\0\0\0\1") ^ _block(second[0], second[1] + b"\0\0\0\1")
    squares = _times(h1, h1), _times(h2, h2)
    cubes = _times(squares[0], h1), _times(squares[1], h2)
    known = _times(begin, cubes[0] ^ cubes[1]) ^ _times(lengths, h1 ^ h2) ^ masks
    chosen = _times(known, _inverse(squares[0] ^ squares[1]))
    tag = _times(begin, cubes[0]) ^ _times(chosen, squares[0]) ^ _times(lengths, h1)
    tag ^= _block(first[0], first[1] + b"\0\0\0\1")
    return b"".join(number.to_bytes(16) for number in (begin, chosen, tag))


def _block(key: bytes, plain: bytes) -> int:
    """One block of AES itself."""
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - what GCM is made of
    return int.from_bytes(encryptor.update(plain))


def _times(one: int, other: int) -> int:
    """The product in GCM's field, whose bits count from the left."""
    product = 0
    for place in range(127, -1, -1):
        if one >> place & 1:
            product ^= other
        other = other >> 1 ^ (_R if other & 1 else 0)
    return product


def _inverse(number: int) -> int:
    """The number whose product with ``number`` is one: its power of 2¹²⁸ - 2."""
    power, result = number, 1 << 127
    for _ in range(127):
        power = _times(power, power)
        result = _times(result, power)
    return result

"""Numbers that only a key names: ChaCha20 keystreams, uniform and normal numbers, points in a ball, rotations.

A stream is a function of a key and a nonce, computed in float64 from integers: the same on every machine up to the
last bits of log, sin and cos.

Source: RFC 8439 (ChaCha20); Box and Muller 1958; Mezzadri, arXiv math-ph/0609050 (Haar rotations).
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from holdfast.privacy.keys import SecretKey, length_prefixed

NONCE_SIZE = 16
SLICE_SIZE = 256  # rows; a slice of normal numbers stays in the second-level cache


def prf(key: SecretKey, *parts: bytes) -> bytes:
    """Return the 32 bytes of HMAC-SHA256 of `parts`, length-prefixed."""
    return hmac.digest(key.reveal(), length_prefixed(*parts), "sha256")


def uniforms(key: SecretKey, nonces: Sequence[bytes], count: int) -> NDArray[np.float64]:
    """Return (len(nonces), count) float64 in [0, 1), 53 bits each; row i is the stream of `nonces[i]`.

    Args:
        nonces: 16 bytes each, of which the first four, ChaCha20's block counter, are taken as zero.

    Cost: about 3 us a row of 512.
    """
    encryptor = Cipher(algorithms.ChaCha20(key.reveal(), bytes(NONCE_SIZE)), mode=None).encryptor()
    buffer = np.empty((len(nonces), 8 * count), dtype=np.uint8)
    zeros = bytes(8 * count)
    for row, nonce in zip(buffer, nonces, strict=True):
        encryptor.reset_nonce(bytes(4) + nonce[4:])
        encryptor.update_into(zeros, row.data)
    integers = buffer.view("<u8") >> np.uint64(11)
    return integers.astype(np.float64) * 2.0**-53


def to_normals(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn (N, 2 h) uniform numbers into as many standard normal ones: radii from the first h, angles from the rest."""
    half = numbers.shape[1] // 2
    radii = np.sqrt(-2.0 * np.log(1.0 - numbers[:, :half]))
    angles = (2.0 * np.pi) * numbers[:, half:]
    return np.concatenate([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def normals(key: SecretKey, nonces: Sequence[bytes], count: int) -> NDArray[np.float64]:
    """Return (len(nonces), count) independent standard normal numbers; row i is the stream of `nonces[i]`."""
    return to_normals(uniforms(key, nonces, count + count % 2))[:, :count]


def ball_and_normals(
    key: SecretKey, nonces: Sequence[bytes], dim: int, radius: float, num_normals: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return, for each nonce, a point uniform in the ball of `radius`, and normal numbers beside it.

    Returns:
        points: (len(nonces), dim) float64.
        normals: (len(nonces), num_normals) float64.
    """
    count = dim + num_normals
    count += count % 2
    points = np.empty((len(nonces), dim))
    beside = np.empty((len(nonces), num_normals))
    for first in range(0, len(nonces), SLICE_SIZE):
        part = slice(first, first + SLICE_SIZE)
        numbers = uniforms(key, nonces[part], count + 1)
        drawn = to_normals(numbers[:, :count])
        directions = drawn[:, :dim]
        lengths = radius * numbers[:, count] ** (1.0 / dim) / np.sqrt(np.einsum("nd,nd->n", directions, directions))
        np.multiply(directions, lengths[:, None], out=points[part])
        beside[part] = drawn[:, dim : dim + num_normals]
    return points, beside


def haar_rotation(key: SecretKey, nonce: bytes, dim: int) -> NDArray[np.float64]:
    """Return a (dim, dim) orthogonal matrix, uniform over all of them."""
    gaussian = normals(key, [nonce], dim * dim).reshape(dim, dim)
    orthogonal, triangular = np.linalg.qr(gaussian)
    return np.ascontiguousarray(orthogonal * np.sign(np.diag(triangular)))

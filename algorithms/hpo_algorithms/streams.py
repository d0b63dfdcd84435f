"""Random numbers that belong to a decision, not to a process.

Every random choice is drawn from a stream of its own, keyed by (seed, Trial number, purpose) through a counter-based
generator [Salmon2011]. The same Study with the same seed therefore draws the same numbers on a laptop, on a cluster, and
after the process that draws them was killed and started again.

[Salmon2011] J. Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, number: int, purpose: str) -> np.random.Generator:
    """The generator for one purpose of one Trial; the same three arguments always give the same numbers."""
    digest = hashlib.blake2b(f"{seed}/{number}/{purpose}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "big")))


def permuted(index: int, size: int, seed: int) -> int:
    """The place of `index` in a seeded permutation of range(size), computed in O(1) and without listing it.

    A four-round Feistel network over the next even number of bits, walked until the value falls below `size`.
    """
    half = max((size - 1).bit_length() + 1, 2) // 2
    mask = (1 << half) - 1
    value = index
    while True:
        left, right = value >> half, value & mask
        for round_ in range(4):
            text = f"{seed}/{size}/{round_}/{right}".encode()
            if half <= 128:
                digest = hashlib.blake2b(text, digest_size=16).digest()
            else:  # as many bits as there are to be mixed: those left out would be the same at each index
                digest = hashlib.shake_128(text).digest(half // 8 + 1)
            left, right = right, left ^ (int.from_bytes(digest, "big") & mask)
        value = (left << half) | right
        if value < size:
            return value

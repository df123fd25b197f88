"""One tree of random numbers: what is drawn in one place never changes what is drawn in another."""

import hashlib

import numpy as np


def seed_of(seed: int, *path: str | int) -> int:
    """A seed of its own (0 to 2**63 - 1) for what ``path`` names, as ``"run", 3, "nature"``."""
    text = "/".join([str(seed), *map(str, path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """A generator seeded with :func:`seed_of`."""
    return np.random.Generator(np.random.PCG64(seed_of(seed, *path)))

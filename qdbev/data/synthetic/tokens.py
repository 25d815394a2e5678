"""Names out of hashes: tokens of table rows and random generators, by (seed, scene, role) alone."""

from __future__ import annotations

import hashlib

import numpy as np


def token(*parts: object) -> str:
    """The 32 hex digits that name one table row.

    >>> token(0, "scene-0001", "sample", 3)
    '7cab410c910f4a8f2863d2b7bf358583'
    """
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:32]


def generator(*parts: object) -> np.random.Generator:
    """A PCG64 generator seeded by the hash of its name, so no draw depends on any other scene.

    >>> bool(generator(0, "a").random() == generator(0, "a").random())
    True
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))

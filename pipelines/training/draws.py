"""What a private run draws: who is in a step, and the noise. All of it follows from a secret of the run and the step.

So a step that is done again after an interruption is the same step, with the same examples and the same noise: it tells
nothing new and is paid for once. The secret comes from the operating system and lies in the run's folder, beside the
checkpoints; whoever can read it can read the data as well. It goes with that folder when the run ends.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from cluster.errors import Conflict
from cluster.storage import ABSENT, Storage

NUM_BYTES = 32


def keep_secret(storage: Storage, run: str, seed: int | None) -> str:
    """Draw the run's secret, unless it has one, and give its name, which tells nothing of it.

    Args:
        run: storage folder of the run.
        seed: makes it a secret that anybody can draw; for tests.
    """
    drawn = secrets.token_bytes(NUM_BYTES) if seed is None else sha256(f"seed {seed}".encode()).digest()
    try:
        storage.write(f"{run}/noise.key", drawn, expect=ABSENT)
    except Conflict:
        drawn = read_secret(storage, run)
    return sha256(b"name of " + drawn).hexdigest()[:16]


def read_secret(storage: Storage, run: str) -> bytes:
    """What keep_secret drew."""
    blob = storage.read(f"{run}/noise.key")
    assert blob is not None, f"{run}/noise.key"
    return blob.content


def poisson(secret: bytes, step: int, num: int, rate: float) -> NDArray[np.int64]:
    """The examples, of `num`, that are in that step: each with the chance `rate`, whatever becomes of the others."""
    return np.flatnonzero(_generator(secret, f"examples of {step}").random(num) < rate)


def gaussian(secret: bytes, step: int, name: str, num: int) -> NDArray[np.float64]:
    """Noise of standard deviation 1 for the `num` values of the parameter `name`."""
    return _generator(secret, f"noise of {step} for {name}").standard_normal(num)


def _generator(secret: bytes, purpose: str) -> np.random.Generator:
    """Philox (Salmon et al. 2011) under a key of 128 bits, which nobody can try through. It passes all statistical tests; that
    it cannot be told from chance by someone who sees its values is not proven, as it is of ciphers."""
    key = hmac.digest(secret, purpose.encode(), "sha256")[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))

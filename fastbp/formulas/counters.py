"""Floor 1: what is drawn by counters, the same for every engine: orders of rows, and the keys of noise."""

from typing import Any

import numpy as np

from fastbp._jit import helper


@helper
def mix(x: Any) -> Any:
    """The splitmix64 finaliser (Steele, Lea and Flood 2014)."""
    z = np.uint64(x) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64(z ^ (z >> np.uint64(31)))


@helper
def shuffled(i: Any, n: Any, bits: Any, key: Any) -> Any:
    """Where row i of 0..n-1 goes in the permutation named by `key`.

    A keyed bijection of 0..2**bits-1 (multiply by an odd number, add, fold the high half down; four rounds) walked
    until it falls below n, as in Mitchell et al., "Bandwidth-optimal random shuffling for GPUs", 2022.
    """
    mask = (np.int64(1) << bits) - 1
    fold = (bits + 1) // 2
    x = i
    while True:
        k = key
        for _ in range(4):
            x = (x * (k | 1) + (k >> 32)) & mask
            x ^= x >> fold
            k = k * np.int64(6364136223846793005) + np.int64(1442695040888963407)
        x = (x * (k | 1)) & mask
        if x < n:
            return x

"""Damage to a file, somewhere in it: what disks, copies and people do to files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

KINDS = ("deleted", "a folder", "cut", "longer", "a bit", "zeros", "random", "huge number", "deep", "garbage")


def damage(kind: str, path: Path, rng: np.random.Generator) -> None:
    """Damage a file; its content is other than before."""
    data = bytearray(path.read_bytes())
    first = int(rng.integers(len(data)))
    last = min(len(data), first + int(rng.integers(1, 9)))
    if kind == "deleted":
        path.unlink()
    elif kind == "a folder":
        path.unlink()
        path.mkdir()
    elif kind == "cut":
        path.write_bytes(data[:first])
    elif kind == "longer":
        path.write_bytes(data + b" \n")
    elif kind == "a bit":
        data[first] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
    elif kind == "zeros":
        path.write_bytes(data[:first] + b"\0" * (last - first) + (b"\0" if not any(data[first:last]) else b"") + data[last:])
    elif kind == "random":
        new = rng.bytes(last - first)
        path.write_bytes(data[:first] + (new if new != data[first:last] else b"") + data[last:])
    elif kind == "huge number":
        path.write_bytes(data[:first] + b"9" * 6000 + data[first:])
    elif kind == "deep":
        path.write_bytes(b"[" * 100_000)
    else:
        path.write_bytes(rng.bytes(int(rng.integers(200))))

"""Blocks of a slide that are kept for validation."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class HeldOut:
    """Which square blocks of a slide are kept for validation: chosen by a hash, so the choice never changes."""

    fraction: float = 0.05  # of the blocks
    block_px: int = 256  # side of a block, in pixels at the working resolution
    seed: int = 0

    def holds(self, name: str, row: int, col: int) -> bool:
        """Tell whether block (row, col) of the slide called `name` is a validation block."""
        digest = hashlib.blake2b(f"{self.seed} {name} {row} {col}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.fraction * 2**64

    @classmethod
    def for_tiles(cls, tile_px: int, fraction: float, seed: int) -> "HeldOut":
        """Choose among blocks that tiles of `tile_px` px fit into."""
        return cls(fraction, max(256, tile_px), seed)

    def touches(self, name: str, x: int, y: int, size_px: int) -> bool:
        """Tell whether the square at (x, y) shares a pixel with a validation block."""
        return any(self.holds(name, *block) for block in self._blocks(x, y, size_px))

    def covers(self, name: str, x: int, y: int, size_px: int) -> bool:
        """Tell whether the square at (x, y) lies wholly in validation blocks."""
        return all(self.holds(name, *block) for block in self._blocks(x, y, size_px))

    def _blocks(self, x: int, y: int, size_px: int) -> Iterator[tuple[int, int]]:
        rows = range(y // self.block_px, (y + size_px - 1) // self.block_px + 1)
        cols = range(x // self.block_px, (x + size_px - 1) // self.block_px + 1)
        return product(rows, cols)

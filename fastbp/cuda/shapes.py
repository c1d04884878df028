"""How blocks of threads are cut: for a GPU, and small for the simulator, where each thread costs."""

import functools
from dataclasses import dataclass

from fastbp.cuda.device import simulated


@dataclass(frozen=True)
class Tile:
    """A tile of a matrix product: `rows` x `columns` of a block, `high` x `wide` of a thread, sums in runs of `depth`.

    A block's threads load its operands in equal shares: both rows * depth and columns * depth are multiples of them.
    """

    rows: int
    columns: int
    depth: int
    high: int
    wide: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.rows // self.high * (self.columns // self.wide)


@dataclass(frozen=True)
class Shapes:
    """Sizes of blocks.

    Attributes
    ----------
    lanes, groups : a block that works by rows has `groups` rows of `lanes` threads; one by columns, `lanes` columns
    flat : threads of a block that goes through numbers one after the other
    single : threads of the block that adds up a step's sums, a power of 2
    tiles : of products, the smallest first
    busy : blocks that keep the device busy
    part : least batch rows of a part, where the sums over a large batch are cut into parts
    wide : outputs from which `lanes` threads share a row of them
    turns : least runs of `Tile.depth` terms of a part of a product's sums; joining parts takes as long as some four
    """

    lanes: int
    groups: int
    flat: int
    single: int
    tiles: tuple[Tile, ...]
    busy: int
    part: int
    wide: int
    turns: int

    @property
    def threads(self) -> int:
        """Threads of a block by rows or columns."""
        return self.lanes * self.groups

    def grid(self, rows: int, columns: int = 1) -> tuple[int, int]:
        """Blocks of a kernel by rows, and how many share the columns of the same rows: few rows busy a GPU, too."""
        blocks = -(-rows // self.groups)
        return blocks, max(1, min(-(-columns // self.lanes), 8 * self.busy // blocks))

    def parts(self, count: int, columns: int) -> int:
        """Into how many blocks the sums down `count` numbers of each of `columns` columns are cut."""
        return max(1, min(count // (self.part // 4), 2 * self.busy // -(-columns // self.lanes)))

    def tile(self, itemsize: int, *products: tuple[int, int], parts: int = 1) -> Tile:
        """The tile for products of so many rows and columns: the largest that still gives work to most of a GPU.

        parts : into how many parts each tile's sums may be cut
        The largest of all is for float32: sums in float64 would take too many registers and too much shared memory.
        """
        for tile in reversed(self.tiles[1 : None if itemsize == 4 else -1]):
            blocks = sum(-(-rows // tile.rows) * -(-columns // tile.columns) for rows, columns in products)
            if parts * blocks >= self.busy:
                return tile
        return self.tiles[0]


DEVICE = Shapes(
    32, 8, 256, 256, (Tile(32, 32, 16, 2, 2), Tile(64, 64, 16, 4, 4), Tile(128, 128, 8, 8, 8)), 128, 512, 16, 8
)
SIMULATED = Shapes(2, 2, 2, 4, (Tile(4, 8, 4, 2, 2), Tile(8, 8, 4, 4, 4)), 2, 5, 4, 1)


@functools.cache
def shapes() -> Shapes:
    """Those of the device in use."""
    return SIMULATED if simulated() else DEVICE

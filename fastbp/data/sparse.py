"""Floor 2: sparse rows (scipy's CSR), checked for the kernels, which read them as they are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
MOST_COLUMNS = 2**31 - 1


@dataclass(frozen=True)
class SparseRows:
    """Rows of which the numbers that aren't 0 are kept.

    Attributes
    ----------
    starts : (N + 1,) int64, where each row's entries begin and the last one's end
    columns : (entries,) int32, ascending in each row
    values : (entries,) of the model's dtype, all finite
    width : I
    """

    starts: NDArray[np.int64]
    columns: NDArray[np.int32]
    values: Array
    width: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, rows: slice) -> "SparseRows":
        """A run of the rows, which shares their entries."""
        first, last, _ = rows.indices(len(self))
        return SparseRows(self.starts[first : last + 1], self.columns, self.values, self.width)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, I)."""
        return len(self), self.width

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        return self.values.dtype

    @property
    def parts(self) -> tuple[Array, Array, Array]:
        """The rows' own arrays."""
        first, last = self.starts[0], self.starts[-1]
        return self.starts - first, self.columns[first:last], self.values[first:last]


def is_sparse(x: Any) -> bool:
    """Whether x is one of scipy's sparse matrices or arrays."""
    return hasattr(x, "tocsr")


def check(rows: Any, compute_dtype: str, first: object) -> None:
    """Refuse sparse rows where the first layer can't read them.

    Raises
    ------
    ValueError : products in bfloat16, or a first layer of another kind than `Dense`
    """
    if isinstance(rows, SparseRows) and type(first).__name__ != "Dense":
        raise ValueError(f"x is sparse, which only a Dense layer can read, and the first layer is {first!r}")
    if isinstance(rows, SparseRows) and compute_dtype == "bfloat16":
        raise ValueError('x is sparse, and sparse rows are multiplied in float32 or float64: make it dtype="float32"')


def staged_bytes(x: Any, dtype: np.dtype[Any]) -> int:
    """Bytes that the rows take beside those that x holds, about."""
    return int(x.nnz) * (dtype.itemsize + 4) + 8 * (int(x.shape[0]) + 1)


def as_sparse(x: Any, dtype: DTypeLike, name: str) -> SparseRows:
    """Return a sparse matrix as the kernels read it.

    Raises
    ------
    TypeError : entries that are no real numbers
    ValueError : columns or places that don't exist, NaN or infinity, or numbers too large for `dtype`
    """
    x = x.tocsr()
    if x.data.dtype.kind not in "fiub":
        raise TypeError(f"{name} is sparse and holds {x.data.dtype} values; wanted real numbers")
    if x.shape[1] > MOST_COLUMNS:
        raise ValueError(f"{name} has {x.shape[1]} columns; sparse rows may have {MOST_COLUMNS}")
    if not x.has_canonical_format:
        x = x.copy()
        x.sum_duplicates()
    starts = np.require(x.indptr, np.int64, ["C_CONTIGUOUS", "ALIGNED"])
    columns = np.require(x.indices, np.int32, ["C_CONTIGUOUS", "ALIGNED"])
    with np.errstate(over="ignore"):
        values = np.require(x.data, dtype, ["C_CONTIGUOUS", "ALIGNED"])
    sound = starts[0] == 0 and starts[-1] <= min(len(columns), len(values)) and not (np.diff(starts) < 0).any()
    if not sound or (len(columns) and not 0 <= columns.min() <= columns.max() < x.shape[1]):
        raise ValueError(f"{name} is a damaged sparse matrix: its indices name entries or columns that don't exist")
    rising = np.diff(columns) > 0
    rising[starts[1:-1][(starts[1:-1] > 0) & (starts[1:-1] < len(columns))] - 1] = True  # from a row to the next
    if not rising.all():
        raise ValueError(f"{name} is a sparse matrix that calls itself sorted and isn't: call its sort_indices()")
    if not np.isfinite(values).all():
        place = int(np.argmax(~np.isfinite(values)))
        row = int(np.searchsorted(starts, place, "right")) - 1
        raise ValueError(
            f"{name} contains NaN or infinity (or what is too large for {values.dtype}): {x.data[place]} at "
            f"{name}[{row}, {columns[place]}]"
        )
    return SparseRows(starts, columns, values, int(x.shape[1]))

"""Floor 2: CSV files whose columns are numbers or text, with gaps, and with lines that are no rows."""

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.data.csv_files import GAPS, SKIP, CsvFile, is_number, shown, unequal
from fastbp.data.frames import Frame

Array = NDArray[Any]
CHUNK = 1 << 15
"""Rows that are converted together; what a column holds is judged by the first of them."""


@dataclass
class Mixed:
    """What was read.

    Attributes
    ----------
    frame : the input columns
    target : (N,) numbers or text; None where none was wanted
    ids : cells of the column that identifies rows; None without one
    lines : (N,) the file's line of each row
    skipped : lines that were left out, and why
    """

    frame: Frame
    target: Array | None
    ids: list[str] | None
    lines: NDArray[np.int64]
    skipped: list[tuple[int, str]]


OF_A_TARGET = f"correct it{SKIP}; if the target is the name of a class, --task classification"


@dataclass
class _Reader:
    file: CsvFile
    skip: bool
    texts: dict[int, bool]
    remedy: str
    skipped: list[tuple[int, str]] = field(default_factory=list)

    def complain(self, line: int, text: str) -> None:
        """Leave a line out, or fail."""
        if not self.skip:
            self.file.fail(f"line {line}{text}")
        self.skipped.append((line, text.lstrip(", ").replace(SKIP, "")))

    def rows(self) -> Any:
        """Lines of as many cells as there are columns."""
        width = len(self.file.names)
        for line, fields in itertools.islice(self.file.rows(), int(self.file.named), None):
            if len(fields) == width:
                yield line, fields
            else:
                self.complain(line, unequal(fields, width))

    def judge(self, column: int, cells: Sequence[str]) -> None:
        """Decide whether a column holds text: numbers are fewer than half of its different values."""
        different = {cell.strip() for cell in cells}
        filled = [cell for cell in different if cell.lower() not in GAPS]
        numbers = sum(map(is_number, filled))
        self.texts[column] = 2 * numbers < len(filled)

    def numbers(self, column: int, cells: Sequence[str], bad: dict[int, str], gaps: bool) -> NDArray[np.float64]:
        """The cells as numbers; those that are none go to `bad`."""
        name, out = self.file.names[column], np.full(len(cells), np.nan)
        if "_" not in "".join(cells):
            try:
                out[:] = [float(cell) for cell in cells]
            except ValueError:
                pass
            else:
                if math.isfinite(out.sum()):
                    return out
        for row, cell in enumerate(cells):
            if is_number(cell) and math.isfinite(float(cell)):
                out[row] = float(cell)
                continue
            out[row] = np.nan
            if cell.strip().lower() not in GAPS:
                hint = self.file.hint(cell, self.remedy if gaps else OF_A_TARGET)
                bad.setdefault(row, f", column {name!r}: {shown(cell)} is not a finite number: {hint}")
            elif not gaps:
                bad.setdefault(row, self.nothing(name))
        return out

    @staticmethod
    def nothing(name: str) -> str:
        """What is wrong with a row without a target."""
        return f", column {name!r} is empty: there is nothing to learn: fill it or drop the line{SKIP}"

    def texts_of(self, column: int, cells: Sequence[str], bad: dict[int, str], gaps: bool) -> Array:
        """The cells as text, None where they are empty."""
        out = np.empty(len(cells), object)
        known: dict[str, str | None] = {}
        for row, cell in enumerate(cells):
            if cell not in known:
                bare = cell.strip()
                known[cell] = None if bare.lower() in GAPS else bare
            out[row] = known[cell]
            if not gaps and out[row] is None:
                bad.setdefault(row, self.nothing(self.file.names[column]))
        return out


def read(
    file: CsvFile,
    features: Sequence[int],
    target: int | None,
    ids: int | None,
    *,
    texts: Collection[int] | None,
    categorical: Collection[int] = (),
    target_text: Callable[[str], bool],
    skip: bool,
) -> Mixed:
    """Read the wanted columns.

    Parameters
    ----------
    file : the file
    features, target, ids : numbers of the columns
    texts : which of the features are text, as a trained model knows them; None where the file decides
    categorical : further columns that are text whatever they hold
    target_text : says by its first cell whether the target is text
    skip : whether lines that are no rows are left out and listed, in place of failing with the first

    Raises
    ------
    ValueError : a line of other width, text among numbers, no target, no row left
    """
    remedy = f"correct it{SKIP}"
    if texts is None:
        remedy += "; if the column's numbers name categories, list it in --categorical"
    reader = _Reader(file, skip, {} if texts is None else {j: j in texts for j in features}, remedy)
    reader.texts |= dict.fromkeys(categorical, True)
    parts: dict[int, list[Array]] = {j: [] for j in [*features, *([] if target is None else [target])]}
    names: list[str] = []
    lines: list[int] = []
    rows = reader.rows()
    while chunk := list(itertools.islice(rows, CHUNK)):
        cells = list(zip(*(fields for _, fields in chunk), strict=True))
        bad: dict[int, str] = {}
        made = {}
        for column in parts:
            if column not in reader.texts:
                if column == target:
                    reader.texts[column] = target_text(cells[column][0])
                else:
                    reader.judge(column, cells[column])
            convert = reader.texts_of if reader.texts[column] else reader.numbers
            made[column] = convert(column, cells[column], bad, column != target)
        for row in sorted(bad):
            reader.complain(chunk[row][0], bad[row])
        good = np.array([row not in bad for row in range(len(chunk))], bool)
        for column, values in made.items():
            parts[column].append(values[good])
        lines += [line for row, (line, _) in enumerate(chunk) if good[row]]
        if ids is not None:
            names += [cell for row, cell in enumerate(cells[ids]) if good[row]]
    if not lines:
        reason = f": {reader.skipped[0][1]} (line {reader.skipped[0][0]})" if reader.skipped else ""
        file.fail(f"no line of it is a row of the table{reason}")
    whole = {column: np.concatenate(arrays) for column, arrays in parts.items()}
    return Mixed(
        Frame([file.names[j] for j in features], [whole[j] for j in features]),
        None if target is None else whole[target],
        None if ids is None else names,
        np.array(lines, np.int64),
        sorted(reader.skipped),
    )

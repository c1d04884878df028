"""Floor 2: CSV files. NumPy's parser reads the values, the slow `csv` module the first lines and whatever is wrong."""

import csv
import gzip
import itertools
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

GAPS = ("", "na", "n/a", "nan", "null", "none", "?", "-")
"""What stands in files where a value is missing, whatever its case."""
SKIP = ", or use --skip-bad-rows"
SHOWN = 60
"""Characters of a cell in messages."""
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+([eE][-+]?\d+)?\s*")


class CsvFile:
    """A table with one line per row, separated by commas, semicolons or tabs, with a header line or without.

    Where semicolons separate, a decimal comma is read as a point: spreadsheets write both where commas are the custom.

    Parameters
    ----------
    path : Path
        The file, UTF-8 (with a byte order mark or without), ``.gz`` or plain.
    fail : callable
        Called with what is wrong; raises.

    Raises
    ------
    UnicodeDecodeError, csv.Error
        Also from the methods, if the file is no text.

    Attributes
    ----------
    names : list of str
        The columns' names; ``column0``, ``column1`` ... where the file has none.
    named : bool
        Whether there is a header line: one without any number, or with text above a number.
    first : list of str
        The cells of the first row below the header, as many as there are names.
    row_numbers : str or None
        The name of a first column that only counts the rows, as ``DataFrame.to_csv`` writes it.
    """

    def __init__(self, path: Path, fail: Callable[[str], NoReturn]) -> None:
        self.path, self.fail = path, fail
        self.delimiter = self._sniff()
        head = list(itertools.islice(self.rows(), 3))
        if not head:
            fail("is empty; wanted a table with one line per row")
        (line, first), second = head[0], (head[1][1] if len(head) > 1 else [])
        self.named = not any(map(is_number, first)) or any(
            is_number(below) and not is_number(cell) and cell.strip().lower() not in GAPS
            for cell, below in zip(first, second, strict=False)
        )
        if self.named and not second:
            fail("has a header line but no rows")
        self.skip = line + sum(cell.count("\n") for cell in first) if self.named else 0
        self.names = [f"column{j}" for j in range(len(first))]
        self.first = second if self.named else first
        self.row_numbers: str | None = None
        if self.named:
            self.names = [cell.strip() or name for cell, name in zip(first, self.names, strict=True)]
            self.names[0] = self.names[0].removeprefix("#").lstrip()
            if not first[0].strip() and [fields[0] for _, fields in head[1:]] == ["0", "1"][: len(head) - 1]:
                self.row_numbers = self.names[0]
            if twice := next((name for name in self.names if self.names.count(name) > 1), None):
                fail(f"has two columns named {twice!r}: columns are found by name, so rename one")
        if len(self.first) != len(self.names):
            self._blame([])

    def numbers(self, wanted: list[int]) -> NDArray[np.float64]:
        """Read the wanted columns, in that order; each cell is a finite number, or this fails."""
        names, chosen = self.names, set(wanted)
        try:
            records = self._parse(np.dtype([(f"f{j}", "f8" if j in chosen else "U1") for j in range(len(names))]))
        except UnicodeDecodeError:
            raise
        except ValueError as error:
            self._blame(wanted)
            if self.delimiter != ";":
                self.fail(str(error))
            rows = itertools.islice(self.rows(), int(self.named), None)
            return np.array([[float(fields[j]) for j in wanted] for _, fields in rows])
        if len(chosen) == len(names):
            table = records.view(np.float64).reshape(len(records), len(names))
            table = table if wanted == sorted(wanted) else table[:, wanted]
        else:
            table = np.empty((len(records), len(wanted)))
            for k, j in enumerate(wanted):
                table[:, k] = records[f"f{j}"]
        with np.errstate(over="ignore", invalid="ignore"):
            if not math.isfinite(table.sum()) and not np.isfinite(table).all():
                self._blame(wanted)
        return table

    def text(self, column: int, *, mixed: bool) -> NDArray[Any]:
        """Read one column as text, or as numbers if they are numbers throughout; `mixed` allows both kinds in it."""
        values = np.char.strip(self._parse(str, usecols=[column]))
        found, index = np.unique(values, return_inverse=True)
        numbers = np.array([is_number(str(value)) for value in found])
        if numbers.all():
            return values.astype(np.float64)
        gaps = np.isin(np.char.lower(found), GAPS)
        wrong = gaps | (~numbers if numbers.any() and not mixed else False)
        if wrong.any():
            row = int(np.argmax(wrong[index]))
            line, fields = next(itertools.islice(self.rows(), row + self.named, None))
            cell, name = fields[column].strip(), self.names[column]
            if cell.lower() in GAPS:
                what = "is empty" if cell == "" else f"is {cell!r}, which stands for nothing"
                self.fail(f"line {line}, column {name!r} {what}: fill it or drop the line{SKIP}")
            self.fail(
                f"line {line}, column {name!r}: {shown(cell)} is text in a column with numbers: correct it, or choose "
                "the task classification, which takes both as classes"
            )
        return values

    def _open(self) -> Any:
        opener = gzip.open if self.path.suffix == ".gz" else open
        return opener(self.path, "rt", encoding="utf-8-sig", newline="")

    def _sniff(self) -> str:
        """Find the delimiter that cuts the first lines into equally many cells."""
        with self._open() as file:
            lines = list(itertools.islice(file, 10))

        def fit(delimiter: str) -> tuple[bool, int]:
            widths = [len(fields) for fields in csv.reader(lines, delimiter=delimiter) if fields] or [0]
            return min(widths) == max(widths) > 1, widths[0]

        return max(",;\t", key=fit)

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows that are not blank, each with the number of the line in which it begins."""
        with self._open() as file:
            reader = csv.reader(file, delimiter=self.delimiter)
            before = 0
            for fields in reader:
                line, before = before + 1, reader.line_num
                if self.delimiter == ";" and any("," in cell for cell in fields):
                    fields = [cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell for cell in fields]
                if fields:
                    yield line, fields

    def _parse(self, dtype: Any, **options: Any) -> NDArray[Any]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Input line .* contained no data")
            return np.loadtxt(
                self.path,
                dtype,
                delimiter=self.delimiter,
                skiprows=self.skip,
                comments=None,
                quotechar='"',
                encoding="utf-8-sig",
                ndmin=1,
                **options,
            )

    def _blame(self, wanted: list[int]) -> None:
        """Fail with the first line that is no row of numbers."""
        for line, fields in itertools.islice(self.rows(), int(self.named), None):
            if len(fields) != len(self.names):
                self.fail(f"line {line}{unequal(fields, len(self.names))}")
            for j in wanted:
                if is_number(fields[j]) and math.isfinite(float(fields[j])):
                    continue
                hint = self.hint(fields[j], "encode the column as numbers, or ignore it")
                self.fail(f"line {line}, column {self.names[j]!r}: {shown(fields[j])} is not a finite number: {hint}")

    @staticmethod
    def hint(cell: str, otherwise: str) -> str:
        """What to do about a cell that is no number."""
        cell = cell.strip()
        if "\n" in cell:
            return f"its quote is closed {_below(cell)}: close it in its line"
        if cell.lower() in GAPS or is_number(cell):
            return "fill it or drop the line"
        return "write decimals with a point" if _DECIMAL_COMMA.fullmatch(cell) else otherwise


def shown(cell: str) -> str:
    """A cell as messages show it."""
    cell = cell.strip()
    return repr(cell if len(cell) <= SHOWN else cell[:SHOWN] + " ...")


def unequal(fields: Sequence[str], width: int) -> str:
    """What is said of a line with too few or too many cells."""
    text = "".join(fields)
    why = f" (a quote in it is closed {_below(text)})" if "\n" in text else ""
    return f" has {len(fields)} values, the first line has {width}{why}: make them equal{SKIP}"


def _below(text: str) -> str:
    lines = text.count("\n")
    return f"{lines} line{'s' * (lines > 1)} below, or never"


def is_number(cell: str) -> bool:
    """Whether the parser reads the cell as a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell

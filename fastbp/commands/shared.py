"""Floor 5: what the commands share: reading tables, making networks, loading models, refusing in time."""

import argparse
import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbp.commands.console import Voice, size
from fastbp.data import readers
from fastbp.data.csv_files import SKIP
from fastbp.data.preparation import Preparation, held_out
from fastbp.data.readers import Dataset

if TYPE_CHECKING:
    from fastbp.model import Model

SHOWN = 10
"""Bad rows that are listed."""
OWN_TEXTS, ENOUGH_ROWS = 0.5, 20
"""With more different texts than this share of so many rows, a column names rows rather than categories."""
TABLE = "the table that is read"
"""How its file is called."""
RARE_CLASSES = 0.2
"""With more classes than this share of the rows, a classification has fewer than five rows of a class."""


def network(args: argparse.Namespace, outputs: int | None) -> "Model":
    """The network that the options name; outputs: number of classes, None for a regression."""
    import fastbp as fb
    from fastbp import optimizers

    layers = [fb.Dense(width, activation=args.activation) for width in args.hidden]
    optimizer = optimizers.get(args.optimizer)
    if args.learning_rate is not None:
        optimizer = dataclasses.replace(optimizer, learning_rate=args.learning_rate)
    if args.weight_decay:
        optimizer = dataclasses.replace(optimizer, weight_decay=args.weight_decay)
    if outputs is None:
        layers.append(fb.Dense(1))
        loss, metrics = "mean_squared_error", ["mae"]
    else:
        layers.append(fb.Dense(outputs, activation="softmax"))
        loss, metrics = "sparse_categorical_crossentropy", ["accuracy"]
    device = getattr(args, "device", "cpu")
    model = fb.Model(layers, dtype=args.dtype, seed=args.seed, threads=args.threads, device=device)
    model.compile(optimizer=optimizer, loss=loss, metrics=metrics)
    return model


def read(args: argparse.Namespace, say: Voice) -> tuple[Dataset, NDArray[np.intp], Dataset | None]:
    """Read the table; return it, the rows to train on and the held-out rows as a table of their own."""
    data = readers.load(
        args.data,
        args.target,
        task=args.task,
        ignore=args.ignore,
        mixed=True,
        categorical=args.categorical,
        ids=args.id,
        skip=args.skip_bad_rows,
    )
    report_skipped(data, say)
    classes = "" if data.classes is None else f" in {len(data.classes)} classes"
    say("data", f"{data.name}: {len(data.x)} rows, {data.x.shape[1]} columns; target {data.target_name}{classes}")
    if args.task == "auto" and data.y is not None:
        kind = "a regression" if data.classes is None else f"a classification in {len(data.classes)} classes"
        say("task", f"{kind}, by what the target holds (--task decides)")
    if data.classes is not None and len(data.classes) < 2:
        raise ValueError(
            f"{data.name}: the target {data.target_name!r} is always {data.classes[0]!r}; a classification wants two "
            "classes or more (for a regression: --task regression)"
        )
    if data.classes is not None and len(data.classes) > RARE_CLASSES * len(data.x):
        say.always(
            "note",
            f"{len(data.classes)} classes in {len(data.x)} rows are too many to learn from; numbers to be predicted as "
            "numbers are a --task regression",
        )
    if data.test is not None:
        say("held out", f"the {len(data.test.x)} test rows of {data.name}")
        return data, np.arange(len(data.x)), data.test
    y = target_of(data)
    train, rows = held_out(y, args.test_fraction, seed=args.seed, stratify=data.classes is not None)
    if not len(rows):
        say("held out", "no rows")
        return data, train, None
    each = "of each class" if data.classes else "of the rows"
    say("held out", f"{len(rows)} rows ({args.test_fraction:.0%} {each}, seed {args.seed}); {len(train)} to train on")
    return data, train, data.take(rows)


def report_columns(table: Preparation, data: Dataset, say: Voice) -> None:
    """Say what became of columns that aren't plain numbers."""
    columns = table.encoder.columns_
    if texts := table.texts:
        inputs = sum(len(column.names_out) for column in columns if column.name in texts)
        say("categories", f"{', '.join(texts[:6])}{' ...' if len(texts) > 6 else ''}: {inputs} inputs")
    several: list[str] = []
    if not isinstance(data.x, np.ndarray):
        cells = dict(zip(data.x.names, data.x.columns, strict=True))
        several = [name for name in texts if len(set(cells[name])) > OWN_TEXTS * len(data.x)]
    if several and len(data.x) >= ENOUGH_ROWS:
        say.always(
            "note",
            f"almost every row has a text of its own in {', '.join(several)}: too many to learn from; leave out with "
            f"--ignore {','.join(several)}, or keep one beside predictions with --id {several[0]}",
        )
    if gaps := [column.name for column in columns if column.missing]:
        say("gaps", f"in {', '.join(gaps[:6])}{' ...' if len(gaps) > 6 else ''}: filled and flagged")


def report_skipped(data: Dataset, say: Voice) -> None:
    """List the lines that were left out."""
    if data.skipped:
        say.always("skipped", f"{len(data.skipped)} bad row{'s' * (len(data.skipped) > 1)} of {data.name}")
        for line, why in data.skipped[:SHOWN]:
            say.always("", f"{data.counted} {line}: {why}")
        if len(data.skipped) > SHOWN:
            say.always("", f"... and {len(data.skipped) - SHOWN} more")


def target_of(data: Dataset) -> NDArray[Any]:
    """The target column, which must be there."""
    if data.y is None:
        raise ValueError(f"{data.name}: there is no target column")
    return data.y


def read_for(table: Preparation, args: argparse.Namespace) -> Dataset:
    """Read the columns and the target that a saved model wants."""
    data = load_for(table, args, args.target or table.target)
    if data.y is None:
        raise ValueError(
            f"{data.name}: there is no column {args.target or table.target!r} to compare with: name it with --target "
            "(fastbp predict needs none)"
        )
    return data


def load_for(table: Preparation, args: argparse.Namespace, target: str | None) -> Dataset:
    """Read the columns that a saved model wants, without the rows that it can't take where these are to be skipped."""
    skip = getattr(args, "skip_bad_rows", False)
    data = readers.load(
        args.data,
        target,
        task="regression" if table.classes is None else "classification",
        columns=table.features,
        classes=table.classes,
        mixed=True,
        texts=table.texts,
        ids=getattr(args, "id", None) or table.ids,
        skip=skip,
    )
    if getattr(args, "id", None) and data.ids is None:
        raise ValueError(f"{data.name}: there is no column {args.id!r} to keep beside the predictions")
    problems = table.encoder.problems(data.x)
    if not problems:
        return data
    numbers = range(len(data.x)) if data.lines is None else data.lines.tolist()
    word = data.counted
    if not skip:
        row, column, text = problems[0]
        raise ValueError(f"{data.name}: {word} {numbers[row]}, column {column!r}: {text}{SKIP}")
    bad = {problem.row: f"column {problem.column!r}: {problem.text}" for problem in reversed(problems)}
    kept = data.take(np.array([row for row in range(len(data.x)) if row not in bad], np.intp))
    if not len(kept.x):
        raise ValueError(f"{data.name}: no row is left; the first: {word} {numbers[min(bad)]}, {bad[min(bad)]}")
    kept.skipped = sorted([*data.skipped, *((numbers[row], why) for row, why in bad.items())])
    return kept


def load_model(path: str, threads: int | None = None, device: str = "cpu") -> tuple["Model", Preparation]:
    """A saved model and what prepares its tables, which must fit each other."""
    import fastbp as fb

    model = fb.load_model(path, threads=threads, device=device)
    table = Preparation.from_meta(model.meta, path)
    widths = (len(table.encoder.feature_names_out_), 1 if table.classes is None else len(table.classes))
    if widths != (model.input_width, model.output_width):
        raise ValueError(
            f"{path}: the network has {model.input_width} inputs and {model.output_width} outputs, its table "
            f"{widths[0]} inputs and {widths[1]} outputs: train and save the model again"
        )
    return model, table


def default_epochs(rows: int, batch_size: int) -> int:
    """50 epochs; more (up to 200) where that is below 500 steps, fewer (down to 10) where it is above 50000."""
    steps = math.ceil(rows / batch_size)
    return min(max(50, math.ceil(500 / steps)), max(10, 50_000 // steps), 200)


def check_apart(inputs: Mapping[str, Any], outputs: Mapping[str, str | None]) -> None:
    """Refuse a file that would take the place of what is read, or of another that is written; both by their names."""
    taken = {os.path.realpath(path): name for name, path in inputs.items() if path and os.path.isfile(str(path))}
    for option, path in outputs.items():
        if path is None:
            continue
        if (other := taken.setdefault(os.path.realpath(path), option)) != option:
            raise ValueError(f"{option} {path} would take the place of {other}: name another file")


def check_writable(path: str, option: str = "--out", force: bool = True, instead: str = "") -> None:
    """Find out before the work, not after it, that its result can't be saved, or would take the place of another."""
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{option} {path}: the folder {folder} does not exist: make it first")
    if Path(path).is_dir():
        raise IsADirectoryError(f"{option} {path} is a folder: name a file")
    if Path(path).exists() and not Path(path).is_file():
        raise FileExistsError(f"{option} {path} is a device or a pipe: name a file")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{option} {path}: the folder {folder} is not yours to write to: choose another")
    if not force and Path(path).exists():
        raise FileExistsError(f"{option} {path} exists: name another file{instead}, or overwrite it with --force")


def score_text(score: dict[str, Any], which: str) -> str:
    """A score in words; `which`: of which rows."""
    if "accuracy" in score:
        return f"{score['accuracy']:.2%} accuracy: {score['correct']} of {score['rows']} {which}rows"
    r2 = "undefined (all targets are the same)" if score["r2"] is None else f"{score['r2']:.4f}"
    return f"R2 {r2}, mean absolute error {score['mae']:.4g}, on {score['rows']} {which}rows"


def kept_text(kernels: dict[str, Any]) -> str:
    """Where kernels are kept, and how much they take."""
    if kernels["folder"] is None:
        return "not kept on disk"
    older = kernels["older_bytes"]
    others = f"; {size(older)} of other versions beside it may be deleted" if older else ""
    return f"{kernels['folder']} ({size(kernels['bytes'])}{others})"

"""Floor 5: ``fastbp evaluate``, ``fastbp predict`` and ``fastbp export``: what is done with a saved model."""

import argparse
import csv
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastbp._atomic import replacing
from fastbp.commands import shared
from fastbp.commands.console import Voice, size


def evaluate(args: argparse.Namespace) -> int:
    """Score a saved model on a table."""
    say = Voice(args)
    model, table = shared.load_model(args.model, args.threads, args.device)
    data = shared.read_for(table, args)
    shared.report_skipped(data, say)
    score = table.score(model.predict(table.inputs(data.x, model.dtype)), shared.target_of(data))
    say.always("score", shared.score_text(score, ""))
    say.document(command="evaluate", model=args.model, data=data.name, target=table.target, score=score)
    return 0


def predict(args: argparse.Namespace) -> int:
    """Predict the target of each row."""
    say = Voice(args)
    if args.out is None:
        say.stream = sys.stderr  # stdout carries the answers
    if args.out is not None:
        shared.check_apart({shared.TABLE: args.data, "the model": args.model}, {"--out": args.out})
        shared.check_writable(args.out, force=args.force)
        if Path(args.out).suffix not in _WRITERS:
            raise ValueError(f"--out {args.out}: its format is told by its ending, one of {', '.join(_WRITERS)}")
    model, table = shared.load_model(args.model, args.threads, args.device)
    if args.probabilities and table.classes is None:
        raise ValueError(f"--probabilities is for classes; {args.model} predicts the number {table.target}")
    data = shared.load_for(table, args, None)
    shared.report_skipped(data, say)
    outputs = model.predict(table.inputs(data.x, model.dtype))
    answers = table.answers(outputs)
    named = args.id or table.ids
    kept = {} if data.ids is None or not named else {named: list(data.ids)}
    columns: dict[str, list[Any]] = {**kept, table.target: answers.tolist()}
    if table.classes is not None:
        columns[table.target] = [table.classes[i] for i in answers]
        sure = f"probability of {table.target}" if "probability" in columns else "probability"
        shown = {sure: outputs.max(axis=1)}
        if args.probabilities:
            shown = {f"{sure} {name}": outputs[:, i] for i, name in enumerate(table.classes)}
        columns |= {name: [float(f"{p:.6g}") for p in values] for name, values in shown.items()}
    about = {"command": "predict", "model": args.model, "data": data.name, "target": table.target}
    if args.out is not None:
        with replacing(args.out) as part:
            _WRITERS[Path(args.out).suffix](columns, part)
        say("predicted", f"{len(answers)} rows of {data.name}; saved {args.out}")
        say.document(**about, rows=len(answers), out=args.out)
    elif args.json:
        say.document(**about, columns=columns)
    else:
        _lines(columns, sys.stdout)
    return 0


def _lines(columns: Mapping[str, list[Any]], file: Any) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))


def _csv(columns: Mapping[str, list[Any]], path: Path) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        _lines(columns, file)


def _npy(columns: Mapping[str, list[Any]], path: Path) -> None:
    """One array with a field for each column."""
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    table = np.empty(len(next(iter(arrays.values()))), [(name, array.dtype) for name, array in arrays.items()])
    for name, array in arrays.items():
        table[name] = array
    with open(path, "wb") as file:
        np.save(file, table, allow_pickle=False)


def _parquet(columns: Mapping[str, list[Any]], path: Path) -> None:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "writing Parquet needs pyarrow: pip install 'fastbp[arrow]'", name="pyarrow"
        ) from None
    parquet.write_table(pa.table(dict(columns)), path)


_WRITERS = {".csv": _csv, ".npy": _npy, ".parquet": _parquet}


def export(args: argparse.Namespace) -> int:
    """Write a saved model in another program's format."""
    import fastbp as fb
    from fastbp.data.preparation import Preparation
    from fastbp.exchange.onnx import to_onnx

    say = Voice(args)
    if Path(args.out).suffix != ".onnx":
        raise ValueError(f"--out {args.out}: wanted a name that ends with .onnx")
    shared.check_apart({"the model": args.model}, {"--out": args.out})
    shared.check_writable(args.out, force=args.force)
    model = fb.load_model(args.model)
    table = Preparation.from_meta(model.meta, args.model) if "table" in model.meta and not args.network_only else None
    graph = to_onnx(model, args.out, table=table)
    inputs, outputs = ([value.name for value in part] for part in (graph.graph.input, graph.graph.output))
    say("inputs", ", ".join(inputs[:10]) + (f" ... ({len(inputs)} in all)" if len(inputs) > 10 else ""))
    say("outputs", ", ".join(outputs))
    say("saved", f"{args.out} ({size(Path(args.out).stat().st_size)})")
    say.document(command="export", model=args.model, out=args.out, inputs=inputs, outputs=outputs)
    return 0

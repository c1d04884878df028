"""Floor 5: the command line, ``fastbp train | evaluate | predict | info``."""

import argparse
import contextlib
import csv
import dataclasses
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbp import _arguments, _machine, readers
from fastbp._checks import DTYPES
from fastbp._console import Voice, exit_code, one_line, short_warnings, sigterm_interrupts, size
from fastbp.preparation import Preparation, held_out
from fastbp.readers import Dataset

if TYPE_CHECKING:
    from fastbp.benchmark import Benchmark
    from fastbp.model import Model

INTERRUPTED_MODEL = "interrupted.fastbp"
SHOWN = 10
"""Bad rows that are listed."""
WORSE, NOT_COMPARABLE = 1, 3
"""Exit codes of bench --compare."""
_OF_A_NETWORK = ("hidden", "activation", "optimizer", "learning_rate", "dtype")

_MISTAKES = (ValueError, OSError, ImportError, FloatingPointError, MemoryError)
"""What a user's data, options or machine can cause; all else is a bug and shows its traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process by default.

    Returns
    -------
    int
        The exit code: 0; 2 after a mistake, answered in one line on stderr; 130 after Ctrl-C, 143 after SIGTERM; 1 and
        3 of bench --compare, see its help.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    args = _arguments.parser().parse_args(argv)
    try:
        with sigterm_interrupts(), short_warnings():
            code = _COMMANDS[args.command](args)
            sys.stdout.flush()
    except KeyboardInterrupt as stop:
        print("fastbp: interrupted", file=sys.stderr)
        return exit_code(stop)
    except BrokenPipeError:
        # The reader has gone; Python would complain once more when it flushes its streams at exit.
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 141
    except _MISTAKES as error:
        print(f"fastbp: error: {one_line(error)}", file=sys.stderr)
        return 2
    return code


# ---------------------------------------------------------------- commands


def _train(args: argparse.Namespace) -> int:
    say = Voice(args)
    if args.out is not None:
        _check_writable(args.out)
    data, train, test = _read(args, say)
    table = Preparation.of(data, train, categorical=args.categorical, max_categories=args.max_categories)
    _report_columns(table, say)
    model = _network(args, table.outputs)
    x, y = table.inputs(data.x, model.dtype, train), table.targets(_target(data)[train], model.dtype)
    model.build(x.shape[1])
    say.lines(model.summary)
    epochs = args.epochs or _default_epochs(len(x), args.batch_size)
    report: dict[str, Any] = {
        "data": data.name,
        "rows": len(x),
        "target": data.target_name,
        "task": "regression" if data.classes is None else "classification",
        "classes": data.classes,
        "hidden": args.hidden,
        "parameters": model.count_params(),
    }

    stop, score = None, None
    start = time.perf_counter()
    try:
        model.fit(x, y, batch_size=args.batch_size, epochs=epochs, verbose=0 if args.quiet else "auto")
        report["seconds"] = time.perf_counter() - start
        if test is not None:
            score = table.score(model.predict(table.inputs(test.x, model.dtype)), _target(test))
    except (KeyboardInterrupt, BrokenPipeError) as interrupt:
        if model.history is None:
            raise
        stop = interrupt
        report["seconds"] = time.perf_counter() - start
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if isinstance(stop, KeyboardInterrupt):
            args.out = args.out or INTERRUPTED_MODEL
    history = model.history
    assert history is not None
    report.update(epochs=len(history.epoch), score=score)
    kept = ""
    if args.out is not None:
        model.meta.update(table.to_meta(), training=report)
        model.save(args.out)
        kept = f"{args.out} ({size(Path(args.out).stat().st_size)})"
    if isinstance(stop, BrokenPipeError):
        raise stop
    if score is not None:
        say.always("score", _score_text(score, "held-out "))
    if stop is not None:
        say.always("interrupted", f"after {len(history.epoch)} of {epochs} epochs; saved {kept}")
    elif kept:
        say("saved", kept)
    else:
        say("not saved", "add --out model.fastbp to keep the model")
    interrupted = stop is not None
    say.document(command="train", **report, history=history.history, model=args.out, interrupted=interrupted)
    return exit_code(stop) if stop is not None else 0


def _read(args: argparse.Namespace, say: Voice) -> tuple[Dataset, NDArray[np.intp], Dataset | None]:
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
    _report_skipped(data, say)
    classes = "" if data.classes is None else f" in {len(data.classes)} classes"
    say("data", f"{data.name}: {len(data.x)} rows, {data.x.shape[1]} columns; target {data.target_name}{classes}")
    if data.classes is not None and len(data.classes) < 2:
        raise ValueError(
            f"{data.name}: the target {data.target_name!r} is always {data.classes[0]!r}; a classification wants two "
            "classes or more (for a regression: --task regression)"
        )
    if data.test is not None:
        say("held out", f"the {len(data.test.x)} test rows of {data.name}")
        return data, np.arange(len(data.x)), data.test
    y = _target(data)
    train, rows = held_out(y, args.test_fraction, seed=args.seed, stratify=data.classes is not None)
    if not len(rows):
        say("held out", "no rows")
        return data, train, None
    each = "of each class" if data.classes else "of the rows"
    say("held out", f"{len(rows)} rows ({args.test_fraction:.0%} {each}, seed {args.seed}); {len(train)} to train on")
    return data, train, data.take(rows)


def _report_columns(table: Preparation, say: Voice) -> None:
    """Say what became of columns that aren't plain numbers."""
    columns = table.encoder.columns_
    if texts := table.texts:
        inputs = sum(len(column.names_out) for column in columns if column.name in texts)
        say("categories", f"{', '.join(texts[:6])}{' ...' if len(texts) > 6 else ''}: {inputs} inputs")
    if gaps := [column.name for column in columns if column.missing]:
        say("gaps", f"in {', '.join(gaps[:6])}{' ...' if len(gaps) > 6 else ''}: filled and flagged")


def _report_skipped(data: Dataset, say: Voice) -> None:
    """List the lines that were left out."""
    if data.skipped:
        say.always("skipped", f"{len(data.skipped)} bad rows of {data.name}")
        for line, why in data.skipped[:SHOWN]:
            say.always("", f"line {line}: {why}")
        if len(data.skipped) > SHOWN:
            say.always("", f"... and {len(data.skipped) - SHOWN} more")


def _target(data: Dataset) -> NDArray[Any]:
    if data.y is None:
        raise ValueError(f"{data.name}: there is no target column")
    return data.y


def _network(args: argparse.Namespace, outputs: int | None) -> "Model":
    """The network that the options name; outputs: number of classes, None for a regression."""
    import fastbp as fb
    from fastbp import optimizers

    layers = [fb.Dense(width, activation=args.activation) for width in args.hidden]
    optimizer = optimizers.get(args.optimizer)
    if args.learning_rate is not None:
        optimizer = dataclasses.replace(optimizer, learning_rate=args.learning_rate)
    if outputs is None:
        layers.append(fb.Dense(1))
        loss, metrics = "mean_squared_error", ["mae"]
    else:
        layers.append(fb.Dense(outputs, activation="softmax"))
        loss, metrics = "sparse_categorical_crossentropy", ["accuracy"]
    model = fb.Model(layers, dtype=args.dtype, seed=args.seed, threads=args.threads)
    model.compile(optimizer=optimizer, loss=loss, metrics=metrics)
    return model


def _evaluate(args: argparse.Namespace) -> int:
    say = Voice(args)
    model, table = _load_model(args.model)
    data = _read_for(table, args)
    _report_skipped(data, say)
    score = table.score(model.predict(table.inputs(data.x, model.dtype)), _target(data))
    say.always("score", _score_text(score, ""))
    say.document(command="evaluate", model=args.model, data=data.name, target=table.target, score=score)
    return 0


def _read_for(table: Preparation, args: argparse.Namespace) -> Dataset:
    """Read the columns and the target that a saved model wants."""
    data = _load_for(table, args, args.target or table.target)
    if data.y is None:
        raise ValueError(
            f"{data.name}: there is no column {args.target or table.target!r} to compare with: name it with --target "
            "(fastbp predict needs none)"
        )
    return data


def _load_for(table: Preparation, args: argparse.Namespace, target: str | None) -> Dataset:
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
        ids=table.ids,
        skip=skip,
    )
    problems = table.encoder.problems(data.x)
    if not problems:
        return data
    numbers = range(len(data.x)) if data.lines is None else data.lines.tolist()
    word = "row" if data.lines is None else "line"
    if not skip:
        row, column, text = problems[0]
        raise ValueError(f"{data.name}: {word} {numbers[row]}, column {column!r}: {text}, or use --skip-bad-rows")
    bad = {problem.row: f"column {problem.column!r}: {problem.text}" for problem in reversed(problems)}
    kept = data.take(np.array([row for row in range(len(data.x)) if row not in bad], np.intp))
    if not len(kept.x):
        raise ValueError(f"{data.name}: no row is left; the first: {word} {numbers[min(bad)]}, {bad[min(bad)]}")
    kept.skipped = sorted([*data.skipped, *((numbers[row], why) for row, why in bad.items())])
    return kept


def _predict(args: argparse.Namespace) -> int:
    say = Voice(args)
    model, table = _load_model(args.model)
    if args.out is not None:
        _check_writable(args.out)
    data = _load_for(table, args, None)
    if args.out is not None or args.json:
        _report_skipped(data, say)
    outputs = model.predict(table.inputs(data.x, model.dtype))
    answers = table.answers(outputs)
    kept = {} if data.ids is None or not table.ids else {table.ids: list(data.ids)}
    columns: dict[str, list[Any]] = {**kept, table.target: answers.tolist()}
    if table.classes is not None:
        columns = {
            **kept,
            table.target: [table.classes[i] for i in answers],
            "probability": [float(f"{p:.6g}") for p in outputs.max(axis=1)],
        }
    if args.json:
        say.document(command="predict", model=args.model, data=data.name, target=table.target, columns=columns)
        return 0
    with open(args.out, "w", encoding="utf-8", newline="") if args.out else contextlib.nullcontext(sys.stdout) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    if args.out:
        say("predicted", f"{len(data.x)} rows of {data.name}; saved {args.out}")
    return 0


def _bench(args: argparse.Namespace) -> int:
    from fastbp import benchmark
    from fastbp.profiling import threads_text
    from fastbp.progress import bar

    say = Voice(args)
    if args.save is not None:
        _check_writable(args.save, "--save")
    model, x, y, name = _subject(args, say)
    subject = benchmark.rehearse(model, x, y, batch_size=args.batch_size, data=name)
    before, differences = _earlier(args, subject)
    say("network", f"{subject['network']} ({', '.join(subject['activations'])}), {subject['dtype']}")
    say("training", f"{subject['optimizer']}, {subject['batch_size']} of {len(x)} rows a step")
    if differences and not args.force:
        say.always("no verdict", f"{args.compare} is of something else; --force compares all the same")
        for difference in differences:
            say.always("", difference)
        say.document(command="bench", subject=subject, differences=differences, comparison=None)
        return NOT_COMPARABLE
    with bar(args.processes, "measuring") if sys.stderr.isatty() else contextlib.nullcontext() as progress:
        advance = (lambda: None) if progress is None else progress.update
        now = benchmark.measure(model, x, y, subject, seconds=args.seconds, processes=args.processes, advance=advance)
    say("measured", f"{args.processes} processes, one after the other, on {threads_text(subject['threads'])}")
    say.block(now.whole.table())
    if args.save is not None:
        now.save(args.save)
        say("saved", args.save)
    report = {"command": "bench", **now.to_dict(), "summary": now.whole.to_dict() | {"raw": None}}
    if before is None:
        say.document(**report)
        return 0
    comparison = benchmark.compare(before, now, args.threshold)
    say("compared", f"with {args.compare}: fastbp {before.versions.get('fastbp')}, {before.made}")
    say.block(comparison.table())
    say.always("verdict", f"{comparison.verdict}, where changes above {100 * args.threshold:.3g}% count")
    say.document(**report, differences=differences, comparison=comparison.to_dict())
    return WORSE if comparison.verdict == "worse" else 0


def _earlier(args: argparse.Namespace, subject: dict[str, Any]) -> tuple["Benchmark | None", list[str]]:
    """The measurement to compare with, and what makes it another one."""
    from fastbp import benchmark

    if args.compare is None:
        return None, []
    before = benchmark.Benchmark.load(args.compare)
    fewest = min(len(before.processes), args.processes)
    if fewest < benchmark.LEAST:
        raise ValueError(
            f"{fewest} processes are too few to know the noise: measure both sides with --processes {benchmark.LEAST} "
            f"or more ({args.compare} has {len(before.processes)})"
        )
    return before, benchmark.differences(subject, before)


def _subject(args: argparse.Namespace, say: Voice) -> tuple["Model", NDArray[Any], NDArray[Any], str]:
    """The model, inputs, targets and the data's name that the options of bench ask for."""
    from fastbp import benchmark

    if args.data is None and args.model is None and args.network is None:
        raise ValueError("what to measure? Name DATA, --network 784-256-128-10 for made-up rows, or --model FILE")
    refused = {
        "--model brings its own network": args.model is not None
        and [*(["--network"] if args.network else []), *_arguments.given(args, _OF_A_NETWORK)],
        "--network names all widths": args.network is not None and _arguments.given(args, ["hidden"]),
        "--network is for made-up rows": args.data is not None and args.network is not None and ["DATA"],
        "DATA has its own rows": args.data is not None and args.rows is not None and ["--rows"],
        "made-up rows have no columns": args.data is None and _arguments.given(args, ["target", "ignore"]),
    }
    for why, options in refused.items():
        if options:
            raise ValueError(f"{why}: leave out {', '.join(options)}")
    if args.model is not None and args.data is not None:
        model, table = _load_model(args.model, args.threads)
        data = _read_for(table, args)
        return model, table.inputs(data.x, model.dtype), table.targets(_target(data), model.dtype), data.name
    if args.data is not None:
        data, train, _ = _read(args, say)
        table = Preparation.of(data, train, categorical=args.categorical, max_categories=args.max_categories)
        model = _network(args, table.outputs)
        x, y = table.inputs(data.x, model.dtype, train), table.targets(_target(data)[train], model.dtype)
        model.build(x.shape[1])
        return model, x, y, data.name
    model = _model_for_made_up_rows(args)
    x, y = benchmark.made_up(model, args.rows or 100 * args.batch_size)
    return model, x, y, "made-up rows"


def _model_for_made_up_rows(args: argparse.Namespace) -> "Model":
    import fastbp as fb

    if args.model is not None:
        model = fb.load_model(args.model, threads=args.threads)
        if model.optimizer is None:
            raise ValueError(f"{args.model} was saved before it was compiled: compile it in Python, and save it again")
        return model
    inputs, *args.hidden, outputs = args.network
    regression = args.task == "regression" or (args.task == "auto" and outputs == 1)
    if outputs == 1 and not regression:
        raise ValueError("a classification wants two outputs or more: end --network with the number of classes")
    if outputs > 1 and regression:
        raise ValueError("a regression wants one output: end --network with 1, or leave out --task")
    model = _network(args, None if regression else outputs)
    model.build(inputs)
    return model


def _info(args: argparse.Namespace) -> int:
    return _info_of_model(args) if args.model else _info_of_machine(args)


def _info_of_machine(args: argparse.Namespace) -> int:
    import fastbp as fb
    from fastbp import _jit
    from fastbp.cpu import pairs

    say = Voice(args)
    facts, versions, kernels = _machine.machine(), _machine.versions(), _machine.kernels()
    threads, bits = _jit.default_threads(), facts["vector_bits"]
    others = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "fastbp")
    say("fastbp", f"{fb.__version__} ({others})")
    say("system", f"{facts['system']} {facts['machine']}")
    say("cpu", facts["cpu"])
    say("vectors", f"{bits} bits: {bits // 32} float32 or {bits // 64} float64")
    say("bfloat16", pairs.arithmetic())
    say("threads", str(threads))
    say("kernels", _kept_text(kernels))
    for dtype, kept in kernels["kept"].items():
        loop = "training loop" if kept["loop"] else "no training loop"
        say("", f"{dtype}: {loop}, {kept['rules']} of {kept['of']} rules compiled")
    peak = {dtype: fb.peak_gflops(dtype) for dtype in ("float32", "float64", "bfloat16")}
    say("peak", ", ".join(f"{value:.0f} GFLOP/s {dtype}" for dtype, value in peak.items()) + ", measured now")
    say.document(
        command="info",
        **versions,
        **facts,
        threads=threads,
        kernel_cache=kernels["folder"],
        kernel_cache_bytes=kernels["bytes"],
        kernels=kernels["kept"],
        bfloat16=pairs.arithmetic(),
        fma_peak_gflops=peak,
    )
    return 0


def _info_of_model(args: argparse.Namespace) -> int:
    import fastbp as fb

    say = Voice(args)
    model = fb.load_model(args.model)
    say.lines(model.summary)
    if "table" in model.meta:
        table = Preparation.from_meta(model.meta, args.model)
        kind = "a number" if table.classes is None else f"{len(table.classes)} classes: {', '.join(table.classes[:10])}"
        say("target", f"{table.target}: {kind}{' ...' if len(table.classes or ()) > 10 else ''}")
        names = ", ".join(table.features[:10])
        say("columns", f"{len(table.features)}: {names}{' ...' if len(table.features) > 10 else ''}")
        training = model.meta.get("training", {})
        say("trained", f"{training.get('epochs')} epochs on {training.get('rows')} rows of {training.get('data')}")
        if training.get("score"):
            say("score", _score_text(training["score"], "held-out "))
    say.document(
        command="info",
        model=args.model,
        layers=[{"units": layer.units, "activation": layer.activation.name} for layer in model.layers],
        input_width=model.input_width,
        parameters=model.count_params(),
        dtype=str(model.dtype),
        meta=model.meta,
    )
    return 0


def _warmup(args: argparse.Namespace) -> int:
    import fastbp as fb

    say = Voice(args)
    dtypes = args.dtype or (DTYPES if args.all else ["float32"])
    done = fb.warmup(dtypes, everything=args.all)
    kernels = _machine.kernels()
    say("kernels", f"{done.found} found, {len(done.compiled)} compiled in {done.seconds:.1f} s")
    say("kept in", _kept_text(kernels))
    say.document(
        command="warmup",
        dtypes=list(dtypes),
        compiled=list(done.compiled),
        found=done.found,
        seconds=done.seconds,
        kernel_cache=kernels["folder"],
        kernel_cache_bytes=kernels["bytes"],
        kernels=kernels["kept"],
    )
    return 0


_COMMANDS = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "info": _info,
    "bench": _bench,
    "warmup": _warmup,
}


# ---------------------------------------------------------------- what the commands share


def _load_model(path: str, threads: int | None = None) -> tuple["Model", Preparation]:
    import fastbp as fb

    model = fb.load_model(path, threads=threads)
    table = Preparation.from_meta(model.meta, path)
    widths = (len(table.encoder.feature_names_out_), 1 if table.classes is None else len(table.classes))
    if widths != (model.input_width, model.output_width):
        raise ValueError(
            f"{path}: the network has {model.input_width} inputs and {model.output_width} outputs, its table "
            f"{widths[0]} inputs and {widths[1]} outputs: train and save the model again"
        )
    return model, table


def _default_epochs(rows: int, batch_size: int) -> int:
    """50 epochs; more (up to 200) where that is below 500 steps, fewer (down to 10) where it is above 50000."""
    steps = math.ceil(rows / batch_size)
    return min(max(50, math.ceil(500 / steps)), max(10, 50_000 // steps), 200)


def _check_writable(path: str, option: str = "--out") -> None:
    """Find out before the work, not after it, that its result can't be saved."""
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{option} {path}: the folder {folder} does not exist: make it first")
    if Path(path).is_dir():
        raise IsADirectoryError(f"{option} {path} is a folder: name a file")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{option} {path}: the folder {folder} is not yours to write to: choose another")


def _score_text(score: dict[str, Any], which: str) -> str:
    if "accuracy" in score:
        return f"{score['accuracy']:.2%} accuracy: {score['correct']} of {score['rows']} {which}rows"
    r2 = "undefined (all targets are the same)" if score["r2"] is None else f"{score['r2']:.4f}"
    return f"R2 {r2}, mean absolute error {score['mae']:.4g}, on {score['rows']} {which}rows"


def _kept_text(kernels: dict[str, Any]) -> str:
    if kernels["folder"] is None:
        return "not kept on disk"
    older = kernels["older_bytes"]
    others = f"; {size(older)} of other versions beside it may be deleted" if older else ""
    return f"{kernels['folder']} ({size(kernels['bytes'])}{others})"

"""Floor 5: ``fastbp train``."""

import argparse
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbp import activations, optimizers
from fastbp._atomic import replacing
from fastbp.activations import Activation
from fastbp.commands import arguments, shared
from fastbp.commands.console import Voice, exit_code, size
from fastbp.commands.trials import Rows, cross_validated, searched
from fastbp.data.preparation import Preparation

if TYPE_CHECKING:
    from fastbp.data.readers import Dataset
    from fastbp.model import Model

INTERRUPTED_MODEL = "interrupted.fastbp"
UNSAVED_MODEL = "unsaved.fastbp"
"""What a model is called that can't be saved under its own name, as on a full disk."""


def train(args: argparse.Namespace) -> int:
    """Train a network on a table, score it on rows held out, save and describe it as asked."""
    say = Voice(args)
    for option in ("out", "plot", "report"):
        if (path := getattr(args, option)) is not None:
            shared.check_writable(path, f"--{option}", args.force)
    held = args.validation if isinstance(args.validation, str) else None
    written = {f"--{option}": getattr(args, option) for option in ("out", "plot", "report", "checkpoint")}
    shared.check_apart({shared.TABLE: args.data, "the table of --validation": held}, written)
    if args.checkpoint is not None:
        shared.check_writable(args.checkpoint, "--checkpoint", args.force or args.resume, ", go on with --resume")
    _check_options(args)
    data, train, test = shared.read(args, say)
    table = Preparation.of(data, train, categorical=args.categorical, max_categories=args.max_categories)
    shared.report_columns(table, data, say)
    raw = shared.target_of(data)[train]
    report: dict[str, Any] = {"data": data.name, "skipped": len(data.skipped)}
    x, y = table.inputs(data.x, args.number, train), table.targets(raw, args.number)
    rows = Rows(table, x, y, raw)
    if args.search:
        args, report["search"] = searched(args, rows, say)
    epochs = args.epochs or shared.default_epochs(len(x), args.batch_size)
    if args.folds and not args.search:
        report["folds"] = cross_validated(args, rows, epochs, say)
    model = shared.network(args, table.outputs)
    model.build(x.shape[1])
    say.lines(model.summary)
    report |= {
        "rows": len(x),
        "target": data.target_name,
        "task": "regression" if data.classes is None else "classification",
        "classes": data.classes,
        "hidden": args.hidden,
        "parameters": model.count_params(),
        "device": model.device,
    }

    stop, score = None, None
    start = time.perf_counter()
    try:
        model.fit(x, y, **_fit_options(args, table, epochs))
        report["seconds"] = time.perf_counter() - start
        if test is not None:
            score = table.score(model.predict(table.inputs(test.x, model.dtype)), shared.target_of(test))
    except (KeyboardInterrupt, BrokenPipeError) as interrupt:
        if model.history is None:
            raise
        stop = interrupt
        report["seconds"] = time.perf_counter() - start
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if isinstance(stop, KeyboardInterrupt):
            args.out = args.out or _free_name(INTERRUPTED_MODEL)
    history = model.history
    assert history is not None
    report.update(epochs=len(history.epoch), score=score)
    kept = ""
    if args.out is not None:
        model.meta.update(table.to_meta(), training=report)
        _save(model, args.out)
        kept = f"{args.out} ({size(Path(args.out).stat().st_size)})"
    if isinstance(stop, BrokenPipeError):
        raise stop
    if score is not None:
        say.always("score", shared.score_text(score, "held-out "))
    _describe(args, model, table, report, rows, test, say)
    if stop is not None:
        say.always("interrupted", f"after {len(history.epoch)} of {epochs} epochs; saved {kept}")
    elif kept:
        say("saved", kept)
    else:
        say("not saved", "add --out model.fastbp to keep the model")
    interrupted = stop is not None
    say.document(command="train", **report, history=history.history, model=args.out, interrupted=interrupted)
    return exit_code(stop) if stop is not None else 0


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options that make no sense beside each other, before anything is read."""
    if args.patience is not None and args.validation is None:
        raise ValueError("--patience watches the rows of --validation: add --validation 0.1")
    if args.target is not None and args.target in (*args.ignore, args.id):
        option = "--ignore" if args.target in args.ignore else "--id"
        raise ValueError(f"{option} leaves out {args.target!r}, which --target wants to predict: name it once")
    if args.resume and args.checkpoint is None:
        raise ValueError("--resume goes on from a checkpoint: name it with --checkpoint FILE")
    for option, table in (("activation", activations), ("optimizer", optimizers)):
        try:
            row = table.get(getattr(args, option))
        except ValueError as error:
            raise ValueError(f"--{option}: {error}") from None
        if isinstance(row, Activation) and row.coupled:
            raise ValueError(f"--activation: {row.name} is for outputs; hidden layers take relu, gelu, tanh ...")
        if isinstance(row, optimizers.LBFGS):
            odd = arguments.given(args, ["batch_size", "learning_rate", "weight_decay"])
            odd += [f"--{name}" for name in ("folds", "search", "checkpoint") if getattr(args, name)]
            if odd:
                raise ValueError(f"lbfgs looks at all rows in every step and has no {odd[0]}: leave it out")
    if args.plot is not None or args.report is not None:
        try:
            import matplotlib as matplotlib
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "--plot and --report need matplotlib: pip install 'fastbp[plot]'", name="matplotlib"
            ) from None
    if args.plot is not None:
        from matplotlib.backend_bases import FigureCanvasBase

        formats = sorted(FigureCanvasBase.get_supported_filetypes())
        if (ending := Path(args.plot).suffix[1:] or "png") not in formats:
            raise ValueError(f"--plot {args.plot}: no picture ends in .{ending}; there are: {', '.join(formats)}")
    if args.device == "cuda":
        from fastbp import devices

        devices.checked(args.device, args.dtype)
    args.number = np.float64 if args.dtype == "float64" else np.float32


def _fit_options(args: argparse.Namespace, table: Preparation, epochs: int) -> dict[str, Any]:
    """What ``Model.fit`` is given beside the rows."""
    from fastbp.callbacks import EarlyStopping

    whole = isinstance(optimizers.get(args.optimizer), optimizers.LBFGS)
    options: dict[str, Any] = {
        "batch_size": None if whole else args.batch_size,
        "epochs": epochs,
        "verbose": 0 if args.quiet else "auto",
        "checkpoint": args.checkpoint,
        "resume": args.resume,
    }
    if isinstance(args.validation, float):
        options |= {"validation_split": args.validation, "stratify": table.classes is not None}
    elif args.validation is not None:
        held = shared.read_for(table, argparse.Namespace(**{**vars(args), "data": args.validation}))
        options["validation_data"] = (
            table.inputs(held.x, args.number),
            table.targets(shared.target_of(held), args.number),
        )
    if args.patience is not None:
        options["callbacks"] = EarlyStopping("val_loss", patience=args.patience, restore_best_weights=True)
    return options


def _describe(
    args: argparse.Namespace,
    model: "Model",
    table: Preparation,
    report: dict[str, Any],
    rows: Rows,
    test: "Dataset | None",
    say: Voice,
) -> None:
    """Write the picture and the page that were asked for."""
    assert model.history is not None
    if not model.history.epoch:
        return
    if args.plot is not None:
        with replacing(args.plot) as part:
            model.history.plot().savefig(part, format=Path(args.plot).suffix[1:] or "png")
        say("drawn", args.plot)
    if args.report is not None:
        from fastbp.commands.report import page

        x: NDArray[Any] = rows.x if test is None else table.inputs(test.x, model.dtype)
        raw = rows.raw if test is None else shared.target_of(test)
        text = page(model, table, report, x, raw, held_out=test is not None)
        with replacing(args.report) as part:
            part.write_text(text, encoding="utf-8")
        say("reported", args.report)


def _save(model: "Model", path: str) -> None:
    """Save the model, here where it can't be saved there."""
    try:
        model.save(path)
    except OSError as error:
        instead = _free_name(UNSAVED_MODEL)
        model.save(instead)
        raise OSError(f"{error}; the model is saved as {instead} instead") from None


def _free_name(name: str) -> str:
    """The name, or the next one with a number that no file has."""
    path, number = Path(name), 1
    while path.exists():
        number += 1
        path = Path(name).with_stem(f"{Path(name).stem}-{number}")
    return str(path)

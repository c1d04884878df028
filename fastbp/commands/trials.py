"""Floor 5: ``--folds`` and ``--search``: many networks on the rows to train on, side by side by `fit_many`."""

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.commands import shared
from fastbp.commands.console import Voice
from fastbp.data.preparation import Preparation

Array = NDArray[Any]
SEARCH_FOLDS = 3
SHOWN = 5
SPACE: dict[str, list[Any]] = {
    "hidden": [[32], [64], [128], [256], [512], [64, 64], [128, 128], [256, 128], [256, 256]],
    "activation": ["relu", "gelu", "silu", "tanh"],
    "batch_size": [16, 32, 64, 128],
    "weight_decay": [0.0, 1e-4, 1e-3, 1e-2, 1e-1],
}
"""What a search draws from, beside the learning rate."""
RATES = 3e-4, 3e-2
"""The learning rate is drawn evenly on the logarithm between these."""


@dataclass
class Rows:
    """The rows to train on: inputs and targets of the network, and the raw targets to score with."""

    table: Preparation
    x: Array
    y: Array
    raw: Array


def folds(y: Array, count: int, seed: int, stratify: bool) -> list[tuple[Array, Array]]:
    """(rows to train on, rows to score) of each fold, each row scored once; with `stratify` classes are spread evenly.

    Raises
    ------
    ValueError : fewer rows than folds
    """
    if len(y) < count:
        raise ValueError(f"--folds {count} of {len(y)} rows: take fewer folds, or more rows")
    order = np.random.default_rng(seed).permutation(len(y))
    if stratify:
        order = order[np.argsort(y[order], kind="stable")]
    fold = np.empty(len(y), np.int64)
    fold[order] = np.arange(len(y)) % count
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(count)]


def scores(candidates: list[argparse.Namespace], rows: Rows, count: int, epochs: list[int], verbose: Any) -> Array:
    """(candidates, folds) accuracy or R2 of each candidate on each fold; NaN where its loss diverged.

    They train side by side on the device that the options name; of "auto" each candidate where it belongs.
    """
    import fastbp as fb
    from fastbp import devices

    width = rows.x.shape[1]
    places = [devices.place(shared.network(candidate, rows.table.outputs), width) for candidate in candidates]
    parts = folds(rows.raw, count, candidates[0].seed, rows.table.classes is not None)
    runs = [(k, part) for k in range(len(candidates)) for part in parts]
    settled = [argparse.Namespace(**{**vars(c), "device": place}) for c, place in zip(candidates, places, strict=True)]
    models = [shared.network(settled[k], rows.table.outputs) for k, _ in runs]
    histories = fb.fit_many(
        models,
        rows.x,
        rows.y,
        batch_size=[candidates[k].batch_size for k, _ in runs],
        epochs=[epochs[k] for k, _ in runs],
        rows=[train for _, (train, _) in runs],
        verbose=verbose,
        threads=candidates[0].threads,
        on_divergence="ignore",
    )
    found = np.full(len(runs), np.nan)
    for place, (model, (_, (_, test))) in enumerate(zip(models, runs, strict=True)):
        if place not in histories.errors:
            score = rows.table.score(model.predict(rows.x[test]), rows.raw[test])
            value = score["accuracy"] if rows.table.classes is not None else score["r2"]
            found[place] = np.nan if value is None else value
    return found.reshape(len(candidates), count)


def cross_validated(args: argparse.Namespace, rows: Rows, epochs: int, say: Voice) -> list[float | None]:
    """Score the network that the options name on each fold, and say so."""
    found = scores([args], rows, args.folds, [epochs], _verbose(args))[0]
    name = "accuracy" if rows.table.classes is not None else "R2"
    each = ", ".join(f"{value:.4f}" for value in found)
    say.always("folds", f"{name} {found.mean():.4f} +- {found.std():.4f} over {args.folds} folds ({each})")
    return [None if value != value else float(value) for value in found]


def searched(args: argparse.Namespace, rows: Rows, say: Voice) -> tuple[argparse.Namespace, list[dict[str, Any]]]:
    """Draw candidates beside the network that the options name, score all, and give the best one's options.

    Raises
    ------
    ValueError : no candidate could be trained
    """
    rng = np.random.default_rng(args.seed)
    candidates = [args]
    for _ in range(args.search - 1):
        drawn = {name: values[int(rng.integers(len(values)))] for name, values in SPACE.items()}
        drawn["learning_rate"] = float(f"{np.exp(rng.uniform(*np.log(RATES))):.3g}")
        candidates.append(argparse.Namespace(**{**vars(args), **drawn}))
    epochs = [c.epochs or shared.default_epochs(len(rows.x), c.batch_size) for c in candidates]
    found = scores(candidates, rows, args.folds or SEARCH_FOLDS, epochs, _verbose(args)).mean(axis=1)
    if np.isnan(found).all():
        raise ValueError("--search: the loss of every candidate diverged; scale the targets, or look for huge inputs")
    order = np.argsort(-np.nan_to_num(found, nan=-np.inf), kind="stable")
    name = "accuracy" if rows.table.classes is not None else "R2"
    say("search", f"{len(candidates)} networks in {args.folds or SEARCH_FOLDS} folds; mean {name} of the best:")
    for place in order[:SHOWN]:
        say("", f"{found[place]:.4f}  {described(candidates[place])}")
    report = [{**_options(c), "score": None if s != s else float(s)} for c, s in zip(candidates, found, strict=True)]
    return candidates[order[0]], report


def described(args: argparse.Namespace) -> str:
    """A candidate in the words of the command line."""
    hidden = ",".join(map(str, args.hidden)) or "none"
    rate = "" if args.learning_rate is None else f" --learning-rate {args.learning_rate:g}"
    decay = f" --weight-decay {args.weight_decay:g}" if args.weight_decay else ""
    return f"--hidden {hidden} --activation {args.activation} --batch-size {args.batch_size}{rate}{decay}"


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in [*SPACE, "learning_rate"]}


def _verbose(args: argparse.Namespace) -> Any:
    return 0 if args.quiet else "auto"

"""Floor 5: ``fastbp train --report``: one self-contained page about a training."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbp.commands import installation
from fastbp.commands.shared import score_text
from fastbp.data.preparation import Preparation
from fastbp.data.tabular import NumberColumn

if TYPE_CHECKING:
    from fastbp.model import Model

Array = NDArray[Any]

IMPORTANCE_ROWS, REPEATS, BINS = 2000, 3, 10
"""Rows that the permutation importance is of, and how often each column is shuffled; bins of the calibration."""
MOST_COLUMNS, MOST_CLASSES, MOST_TRIALS = 60, 40, 20
"""Larger tables are cut."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } caption { text-align: left; color: #555 }
td, th { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #eee }
td:first-child, th:first-child { text-align: left } img { max-width: 100% } .note { color: #555 }
"""


def page(model: "Model", table: Preparation, report: dict[str, Any], x: Array, y: Array, *, held_out: bool) -> str:
    """The page as HTML, pictures inside.

    Parameters
    ----------
    model, table : what was trained
    report : what ``fastbp train --json`` says of it
    x, y : (N, I) inputs of the network and (N,) raw targets of the rows it is judged by
    held_out : whether these were kept from the training
    """
    outputs = model.predict(x)
    judged = f"{len(x)} {'held-out rows' if held_out else 'rows it was trained on (none were held out)'}"
    title = f"{table.target} of {report['data']}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        _paragraph(f"A {report['task']} by fastbp {installation.versions()['fastbp']}, judged by {judged}."),
        _paragraph(score_text(table.score(outputs, y), "")),
        _section("Data", _data(table, report) + _target(table, y, judged)),
        _section("Network", model._repr_html_()),
        *_trials(table, report),
        _section("Curves", _picture(_curves(model), "loss and metrics by epoch")),
    ]
    if table.classes is not None:
        parts.append(_section("Confusion", _confusion(table.classes, table.answers(outputs), y)))
        said = "how often the predicted class is right, by the probability it was given"
        parts.append(_section("Calibration", _picture(_calibration(outputs, y), said)))
    else:
        answers = table.answers(outputs)
        parts.append(_section("Residuals", _picture(_residuals(answers, y), "predictions by targets; their errors")))
        said = "mean target of tenths of the rows, by their mean prediction"
        parts.append(_section("Calibration", _picture(_calibration_of_numbers(answers, y), said)))
    parts.append(_section("Permutation importance", _importance(model, table, x, y)))
    parts.append(_section("Speed", _speed(model, report)))
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _paragraph(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def _section(name: str, body: str) -> str:
    return f"<h2>{name}</h2>\n{body}"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> str:
    def cells(values: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(value))}</{tag}>" for value in values) + "</tr>"

    lines = [cells(head, "th")] if any(head) else []
    lines += [cells(row, "td") for row in rows]
    above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{above}{''.join(lines)}</table>"


def _picture(figure: Any, said: str) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return f'<img alt="{html.escape(said)}" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _axes(width: float = 4.6, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 3.6), layout="constrained")
    return figure, figure.subplots(1, columns)


def _data(table: Preparation, report: dict[str, Any]) -> str:
    rows = []
    for column in table.encoder.columns_[:MOST_COLUMNS]:
        if isinstance(column, NumberColumn):
            what = f"mean {column.mean:.4g}, deviation {column.scale:.4g}"
        else:
            shown = ", ".join(column.categories[:6]) + (" ..." if len(column.categories) > 6 else "")
            what = f"{len(column.categories)} categories: {shown}"
        rows.append((column.name, column.kind, what, "flagged" if column.missing else "none"))
    rest = len(table.encoder.columns_) - len(rows)
    caption = f"{report['rows']} rows to train on, {report['skipped']} bad rows left out"
    more = _paragraph(f"... and {rest} more columns") if rest else ""
    return _table(["column", "kind", "what it holds", "gaps"], rows, caption) + more


def _target(table: Preparation, y: Array, judged: str) -> str:
    """What the target holds in the rows that the network is judged by."""
    if table.classes is None:
        ends = f"{y.min():.4g} to {y.max():.4g}, mean {y.mean():.4g}, deviation {y.std():.4g}"
        return _paragraph(f"The target {table.target}: {ends}, in the {judged}.")
    counts = np.bincount(y, minlength=len(table.classes))
    order = np.argsort(-counts, kind="stable")[:6]
    shown = ", ".join(f"{table.classes[k]} {counts[k] / len(y):.1%}" for k in order)
    rest = " ..." if len(counts) > len(order) else ""
    return _paragraph(f"The target {table.target}: {len(counts)} classes, {shown}{rest}, in the {judged}.")


def _trials(table: Preparation, report: dict[str, Any]) -> list[str]:
    """What ``--search`` and ``--folds`` found, where they were asked for."""
    name = "R2" if table.classes is None else "accuracy"
    found = []
    if searched := report.get("search"):
        ranked = sorted(searched, key=lambda one: -np.inf if one["score"] is None else one["score"], reverse=True)
        options = [option for option in searched[0] if option != "score"]
        rows = [
            [_shown(one[option]) for option in options] + [_shown(one["score"], "diverged")]
            for one in ranked[:MOST_TRIALS]
        ]
        head = [option.replace("_", " ") for option in options] + [f"mean {name}"]
        said = f"the best of {len(searched)} networks, by their mean {name} over the folds; the first was trained"
        found.append(_section("Search", _table(head, rows, said)))
    if folds := report.get("folds"):
        rows = [[str(number), _shown(score, "diverged")] for number, score in enumerate(folds, 1)]
        found.append(_section("Folds", _table(["fold", name], rows, "each scored by the network of the others")))
    return found


def _shown(value: Any, nothing: str = "default") -> str:
    """A setting or a score; lists as on the command line."""
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return nothing if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _curves(model: "Model") -> Any:
    assert model.history is not None
    return model.history.plot()


def _confusion(classes: Sequence[str], answers: Array, y: Array) -> str:
    count = len(classes)
    counts = np.zeros((count, count), np.int64)
    np.add.at(counts, (y, answers), 1)
    chosen = np.sort(np.argsort(-counts.sum(axis=1), kind="stable")[:MOST_CLASSES])
    head = ["true \\ predicted", *(classes[k] for k in chosen), "recall"]
    rows = [
        [classes[k], *counts[k, chosen], f"{counts[k, k] / counts[k].sum():.3f}" if counts[k].any() else "-"]
        for k in chosen
    ]
    return _table(head, rows, f"the {MOST_CLASSES} most frequent of {count} classes" if count > MOST_CLASSES else "")


def _calibration(outputs: Array, y: Array) -> Any:
    """How often the predicted class is right, by the probability it was given."""
    sure, right = outputs.max(axis=1), outputs.argmax(axis=1) == y
    bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    used = counts > 0
    mean = np.bincount(bins, sure, BINS)[used] / counts[used]
    share = np.bincount(bins, right, BINS)[used] / counts[used]
    error = float((counts[used] * np.abs(mean - share)).sum() / len(y))
    figure, axes = _axes()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axes.plot(mean, share, marker="o")
    axes.set(xlabel="probability of the predicted class", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(f"expected calibration error {error:.3f}")
    return figure


def _calibration_of_numbers(answers: Array, y: Array) -> Any:
    """Whether numbers that are predicted high or low are so on average: tenths of the rows, by their prediction."""
    groups = [group for group in np.array_split(np.argsort(answers, kind="stable"), BINS) if len(group)]
    figure, axes = _axes()
    ends = [answers.min(), answers.max()]
    axes.plot(ends, ends, color="0.7", linewidth=1)
    axes.plot([answers[group].mean() for group in groups], [y[group].mean() for group in groups], marker="o")
    axes.set(xlabel="mean prediction", ylabel="mean target")
    return figure


def _residuals(answers: Array, y: Array) -> Any:
    figure, (left, right) = _axes(9.2, 2)
    left.scatter(y, answers, s=8, alpha=0.5)
    ends = [min(y.min(), answers.min()), max(y.max(), answers.max())]
    left.plot(ends, ends, color="0.7", linewidth=1)
    left.set(xlabel="target", ylabel="prediction")
    right.hist(answers - y, bins=40)
    right.set(xlabel="prediction - target", ylabel="rows")
    return figure


def _importance(model: "Model", table: Preparation, x: Array, y: Array) -> str:
    """By how much the score falls when a column's values are shuffled among the rows (Breiman 2001)."""
    name = "accuracy" if table.classes is not None else "r2"
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(x))[:IMPORTANCE_ROWS]
    x, y = x[rows], y[rows]
    whole = table.score(model.predict(x), y)[name]
    if whole is None:
        return _paragraph("The targets are all the same.")
    found, at = [], 0
    for column in table.encoder.columns_:
        places = slice(at, at + len(column.names_out))
        at = places.stop
        falls = []
        for _ in range(REPEATS):
            shuffled = x.copy()
            shuffled[:, places] = x[rng.permutation(len(x)), places]
            falls.append(whole - table.score(model.predict(shuffled), y)[name])
        found.append((float(np.mean(falls)), float(np.std(falls)), column.name))
    found.sort(reverse=True)
    lines = [(label, f"{mean:.4f}", f"{spread:.4f}") for mean, spread, label in found[:MOST_COLUMNS]]
    caption = f"fall of {'the accuracy' if name == 'accuracy' else 'R2'} from {whole:.4f}, {REPEATS} shuffles each"
    return _table(["column", "fall", "deviation"], lines, caption)


def _speed(model: "Model", report: dict[str, Any]) -> str:
    seen = report["rows"] * report["epochs"]
    rate = seen / max(report["seconds"], 1e-9)
    facts = [
        ("epochs", report["epochs"]),
        ("seconds, compiling included", f"{report['seconds']:.2f}"),
        ("rows a second", f"{rate:,.0f}"),
        ("GFLOP/s", f"{rate * model.flops_per_sample / 1e9:.2f}"),
        ("threads", model.threads),
        ("processor", installation.machine()["cpu"]),
    ]
    return _table(["", ""], facts)

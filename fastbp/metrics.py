"""Floor 1: metrics: what a user names in ``compile``, and how the sums that the kernels take become the value reported.

The sums are those of a `Tally`: float64, in an order that follows from shapes only.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp._checks import number, whole
from fastbp._spelling import answers, listed
from fastbp.activations import unknown
from fastbp.formulas.tallies import TALLIES, Tally
from fastbp.formulas.tracing import Steps, by_rows, follow, kept, mean_of, named, restored
from fastbp.losses import Loss

Array = NDArray[Any]


@dataclass(frozen=True)
class Totals:
    """What the kernels hand over for a metric.

    Attributes
    ----------
    sums : (..., sums) float64
    rows : (...), how many rows count, or their weights' sum
    outputs : outputs of a row
    kept : (rows, 2 outputs + 1) of the loop "kept": outputs, targets, what the row counts
    """

    sums: Array
    rows: Array
    outputs: int
    kept: Array | None = None


def mean(totals: Totals, options: Mapping[str, Any]) -> Array:
    """The sum divided by the rows."""
    value: Array = totals.sums[..., 0] / totals.rows
    return value


@dataclass(frozen=True)
class Metric:
    """One row of the table: what a user names in ``compile(metrics=[...])``.

    Attributes
    ----------
    name : how users call it
    tally : what is summed
    finish : f(totals, options) -> the value: (...), or (..., classes) or (..., classes, classes)
    options : names and values of what the user chose
    aliases : other names
    label : the name reported; "" for the one it was asked for by
    made : the steps of a user's own function (see ``fastbp.formulas.tracing``)
    choose : f(metric, loss, outputs) -> the metric for that loss and so many outputs, None where it is always the same
    """

    name: str
    tally: Tally
    finish: Callable[[Totals, Mapping[str, Any]], Array] = mean
    options: tuple[tuple[str, Any], ...] = ()
    aliases: tuple[str, ...] = ()
    label: str = ""
    made: Steps | None = None
    choose: Callable[["Metric", Loss, int], "Metric"] | None = None

    def __getitem__(self, option: str) -> Any:
        return dict(self.options)[option]

    def having(self, label: str | None = None, **options: Any) -> "Metric":
        """The same metric with other options."""
        chosen = tuple((name, options.pop(name, value)) for name, value in self.options)
        return replace(self, options=chosen, label=label or "")

    @property
    def scalar(self) -> bool:
        """Whether its value is a number."""
        options = dict(self.options)
        several = options.get("average", "") is None and options.get("class_id") is None
        return self.name != "confusion_matrix" and not several

    def value(self, totals: Totals) -> Array:
        """What is reported of the sums."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.finish(totals, dict(self.options))


# ---------------------------------------------------------------- for a loss and so many outputs


def categorical(loss: Loss, outputs: int) -> bool:
    """Whether the outputs of a row are classes of which it has one."""
    return loss.targets == "labels" or (outputs > 1 and loss.fused_with != "sigmoid")


def cut(threshold: float | None, loss: Loss) -> float:
    """The output above which a label is given: where the probability is `threshold`, 0 between targets -1 and 1."""
    if loss.targets == "signs":
        return threshold or 0.0
    share = 0.5 if threshold is None else threshold
    if loss.from_logits and loss.fused_with == "sigmoid":
        return math.log(share / (1 - share)) if 0 < share < 1 else math.copysign(math.inf, share - 0.5)
    return share


def _accuracy(metric: Metric, loss: Loss, outputs: int) -> Metric:
    if isinstance(loss.targets, tuple):
        return replace(metric, tally=TALLIES["accuracy of class columns"])
    if categorical(loss, outputs):
        return METRICS["categorical_accuracy"]
    return _binary_accuracy(METRICS["binary_accuracy"], loss, outputs)


def _binary_accuracy(metric: Metric, loss: Loss, outputs: int) -> Metric:
    return replace(metric, tally=replace(metric.tally, values=(cut(metric["threshold"], loss),)))


def _top_k(metric: Metric, loss: Loss, outputs: int) -> Metric:
    if not categorical(loss, outputs):
        raise ValueError(
            f"{metric.name} needs classes of which each row has one; loss {loss.name!r} over {outputs} outputs has none"
        )
    return replace(metric, tally=replace(metric.tally, values=(float(metric["k"]),)))


def _log_loss(metric: Metric, loss: Loss, outputs: int) -> Metric:
    kind = "categorical" if categorical(loss, outputs) else "binary"
    if metric.name != "log_loss" and not metric.name.startswith(kind):
        raise ValueError(f"{metric.name} doesn't go with loss {loss.name!r} over {outputs} outputs: use log_loss")
    return replace(metric, tally=TALLIES[f"{kind} log loss" + (" of logits" if loss.from_logits else "")])


def _hits(metric: Metric, loss: Loss, outputs: int) -> Metric:
    threshold, class_id = metric["threshold"], dict(metric.options).get("class_id")
    if class_id is not None and class_id >= outputs:
        raise ValueError(f"{metric.name}: class_id={class_id}, but classes go from 0 to {outputs - 1}")
    if threshold is None and categorical(loss, outputs):
        return metric
    if loss.from_logits and loss.fused_with == "softmax":
        raise ValueError(
            f"{metric.name}: threshold={threshold} is about probabilities, and the outputs are logits: leave it out "
            "(the highest output is the class), or give the last layer the activation softmax"
        )
    return replace(metric, tally=replace(TALLIES["hits of labels"], values=(cut(threshold, loss),)))


def _scores(metric: Metric, loss: Loss, outputs: int) -> Metric:
    logits = loss.from_logits and loss.fused_with == "softmax"
    return replace(metric, options=(*metric.options, ("one", categorical(loss, outputs)), ("logits", logits)))


# ---------------------------------------------------------------- what is made of the sums


def _root(totals: Totals, options: Mapping[str, Any]) -> Array:
    return np.sqrt(mean(totals, options))


def _averaged(values: Array, support: Array, seen: Array, average: str | None) -> Array:
    """Values (..., classes) as one: of all classes seen alike, by how many rows have them, or as they are."""
    if average is None:
        return values
    weights = (seen > 0).astype(float) if average == "macro" else support
    total: Array = (values * weights).sum(-1)
    return np.where(weights.sum(-1) > 0, total / weights.sum(-1), 0.0)


def _ratio(top: Array, bottom: Array) -> Array:
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), 0.0)


def _of_hits(measure: Callable[[Array, Array, Array], Array]) -> Callable[[Totals, Mapping[str, Any]], Array]:
    """A metric of the rows (right, given, had) of each class."""

    def finish(totals: Totals, options: Mapping[str, Any]) -> Array:
        right, given, had = np.moveaxis(totals.sums[..., :-1].reshape(*totals.sums.shape[:-1], -1, 3), -1, 0)
        if options.get("class_id") is not None:
            return measure(*(part[..., options["class_id"]] for part in (right, given, had)))
        if totals.outputs == 1:
            return measure(right, given, had)[..., 0]
        if options["average"] == "micro":
            return measure(right.sum(-1), given.sum(-1), had.sum(-1))
        return _averaged(measure(right, given, had), had, given + had, options["average"])

    return finish


_precision = _of_hits(lambda right, given, had: _ratio(right, given))
_recall = _of_hits(lambda right, given, had: _ratio(right, had))
_f1 = _of_hits(lambda right, given, had: _ratio(2 * right, given + had))


def _confusion(totals: Totals, options: Mapping[str, Any]) -> Array:
    sums, outputs = totals.sums, totals.outputs
    before = sums.shape[:-1]
    if sums.shape[-1] == outputs * outputs and outputs > 1:
        matrix = sums.reshape(*before, outputs, outputs)
    else:
        right, given, had = np.moveaxis(sums[..., :-1].reshape(*before, outputs, 3), -1, 0)
        rest = sums[..., -1:] - given - had + right
        matrix = np.stack([rest, given - right, had - right, right], -1).reshape(*before, outputs, 2, 2)
        matrix = matrix[..., 0, :, :] if outputs == 1 else matrix
    axes = {"true": (-1,), "pred": (-2,), "all": (-2, -1)}
    chosen = axes.get(options["normalize"])
    return matrix if chosen is None else _ratio(matrix, matrix.sum(chosen, keepdims=True))


def _r2(totals: Totals, options: Mapping[str, Any]) -> Array:
    sums = totals.sums
    linear, square, error = np.moveaxis(sums[..., :-1].reshape(*sums.shape[:-1], -1, 3), -1, 0)
    spread = square - linear * linear / sums[..., -1:]
    constant = spread <= 1e-13 * square  # what rounding leaves of the same number summed up
    share = 1.0 - error / np.where(constant, 1.0, spread)
    return np.where(constant, np.where(error == 0.0, 1.0, 0.0), share).mean(-1)


def _area(totals: Totals, options: Mapping[str, Any]) -> Array:
    kept, outputs = totals.kept, totals.outputs
    assert kept is not None
    kept = np.asfortranarray(kept if kept[:, -1].all() else kept[kept[:, -1] > 0])
    scores, y, weights = kept[:, :outputs], kept[:, outputs:-1], kept[:, -1].astype(np.float64)
    if options["logits"]:
        scores = np.exp(scores - scores.max(1, keepdims=True))
        scores /= scores.sum(1, keepdims=True)
    truth = _class_of_each(y) if options["one"] else y > 0.5
    measure = roc_area if options["curve"] == "ROC" else average_precision
    if options["average"] == "micro":
        return np.float64(measure(truth.ravel(), scores.ravel(), np.repeat(weights, outputs)))  # type: ignore[return-value]
    areas = np.array([measure(truth[:, c], scores[:, c], weights) for c in range(outputs)])
    if options["average"] is None and outputs > 1:
        return areas
    share = np.ones(outputs)
    if options["average"] == "weighted":
        share = np.where(truth, weights[:, None], 0.0).sum(0)
    known = ~np.isnan(areas)
    return np.float64((areas * share)[known].sum() / share[known].sum() if known.any() else math.nan)  # type: ignore[return-value]


def _class_of_each(y: Array) -> Array:
    """(N, O) booleans, true at each row's largest target, the first of equals."""
    columns = y.T
    largest = columns == columns.max(0)  # 8 times as fast as argmax, but true at all equals
    if np.count_nonzero(largest) != len(y):
        largest = np.arange(len(columns))[:, None] == np.argmax(y, 1)
    return largest.T


def _steps(truth: Array, scores: Array, weights: Array) -> tuple[Array, Array]:
    """Weights of the true and of the false above each threshold, the highest first; equal scores are one threshold."""
    order = np.argsort(-scores)
    ranked, had = scores[order], truth[order]
    weights = weights[order]
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(scores) - 1)
    return np.where(had, weights, 0.0).cumsum()[ends], np.where(had, 0.0, weights).cumsum()[ends]


def roc_area(truth: Array, scores: Array, weights: Array) -> float:
    """The area under the ROC curve: the probability that a true row scores above a false one, equal scores half.

    Parameters
    ----------
    truth : (N,) of booleans
    scores : (N,)
    weights : (N,) what each row counts

    Returns
    -------
    float; NaN where all rows are of one kind
    """
    if not len(scores):
        return math.nan
    if weights.min() == weights.max():
        return _area_by_ranks(truth, scores)
    right, wrong = _steps(truth, scores, weights)
    if not right[-1] or not wrong[-1]:
        return math.nan
    below = np.append(0.0, right[:-1])
    return float((np.diff(wrong, prepend=0.0) * (right + below)).sum() / (2 * right[-1] * wrong[-1]))


def _area_by_ranks(truth: Array, scores: Array) -> float:
    """The same for rows that count alike, by the ranks of a kind (Mann and Whitney 1947): 3 times as fast."""
    count = int(np.count_nonzero(truth))
    others = len(truth) - count
    if not count or not others:
        return math.nan
    if scores.dtype == np.float32:
        return _pairs_in_order(truth, scores, count) / (count * others)
    rare = truth if count <= others else ~truth
    own, ranked = np.sort(scores[rare]), np.sort(scores)
    ranks = int(ranked.searchsorted(own, "left").sum()) + int(ranked.searchsorted(own, "right").sum())
    area = (ranks - len(own) ** 2) / (2 * count * others)
    return area if rare is truth else 1.0 - area


def _pairs_in_order(truth: Array, scores: Array, count: int) -> float:
    """How many pairs of a true and a false row are in order, those of equal scores half; `count` rows are true.

    One sort of numbers that end with a bit for the kind, below the bits of a float32, which order as it does: searches
    for the ranks take twice as long.
    """
    bits = (scores + np.float32(0.0)).view(np.int32)  # -0 becomes 0
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64) * 2 + truth
    keys.sort()
    among_the_true = count * (count - 1) // 2
    pairs = int(np.flatnonzero((keys & 1).astype(bool)).sum()) - among_the_true
    if not np.any((keys[1:] ^ keys[:-1]) == 1):
        return pairs
    keys ^= 1  # of equal scores the true ones came last, now they come first
    keys.sort()
    return (pairs + int(np.flatnonzero((keys & 1) == 0).sum()) - among_the_true) / 2


def average_precision(truth: Array, scores: Array, weights: Array) -> float:
    """The mean of the precision over the recall's steps, parameters as for `roc_area`; NaN where no row is true."""
    if not len(scores):
        return math.nan
    right, wrong = _steps(truth, scores, weights)
    if not right[-1]:
        return math.nan
    return float((np.diff(right, prepend=0.0) * right / (right + wrong)).sum() / right[-1])


# ---------------------------------------------------------------- the table

_hit_options = (("threshold", None), ("average", "macro"), ("class_id", None))

METRICS = {
    row.name: row
    for row in (
        Metric("accuracy", TALLIES["categorical accuracy"], aliases=("acc",), choose=_accuracy),
        Metric("categorical_accuracy", TALLIES["categorical accuracy"], aliases=("sparse_categorical_accuracy",)),
        Metric("binary_accuracy", TALLIES["binary accuracy"], options=(("threshold", None),), choose=_binary_accuracy),
        Metric(
            "top_k_categorical_accuracy",
            TALLIES["top-k accuracy"],
            options=(("k", 5),),
            aliases=("sparse_top_k_categorical_accuracy",),
            choose=_top_k,
        ),
        Metric("precision", TALLIES["hits of classes"], _precision, _hit_options, choose=_hits),
        Metric("recall", TALLIES["hits of classes"], _recall, _hit_options, choose=_hits),
        Metric("f1_score", TALLIES["hits of classes"], _f1, _hit_options, ("f1",), choose=_hits),
        Metric(
            "confusion_matrix",
            TALLIES["pairs of classes"],
            _confusion,
            (("threshold", None), ("normalize", None)),
            choose=_hits,
        ),
        Metric("auc", TALLIES["scores"], _area, (("curve", "ROC"), ("average", "macro")), ("roc_auc",), choose=_scores),
        Metric("log_loss", TALLIES["binary log loss"], choose=_log_loss),
        Metric("binary_crossentropy", TALLIES["binary log loss"], choose=_log_loss),
        Metric(
            "categorical_crossentropy",
            TALLIES["categorical log loss"],
            aliases=("sparse_categorical_crossentropy",),
            choose=_log_loss,
        ),
        Metric("mean_squared_error", TALLIES["squared error"], aliases=("mse",)),
        Metric("root_mean_squared_error", TALLIES["squared error"], _root, aliases=("rmse",)),
        Metric("mean_absolute_error", TALLIES["absolute error"], aliases=("mae",)),
        Metric("r2_score", TALLIES["targets"], _r2, aliases=("r2",)),
    )
}


def custom(function: Callable[[Any, Any], Any], *, name: str | None = None) -> Metric:
    """A metric from a function of one's own, whose mean over rows is reported; kept in model files.

    Parameters
    ----------
    function : f(y_true, y_pred) of plain arithmetic and of functions of NumPy or ``fb.math``: a value for each output,
        whose mean is taken, or, by sums, means, maxima and minima over axis=-1, for each row. With class numbers as
        targets y_true is 1 for the row's class and 0 for the others
    name : by default the function's

    Raises
    ------
    TypeError : the function does what can't be compiled
    """
    name = named(function, name, METRICS)
    tape, value = follow(function, ["y_c", "a_c"], f"the metric {name!r}")
    return remade(name, kept(tape, mean_of(tape, value, f"the metric {name!r}")))


def remade(name: str, steps: Any) -> Metric:
    """The metric of `custom`, by its steps."""
    tape, (value,) = restored(steps, 1)
    made = tuple(tuple(step) for step in steps)
    return Metric(name, Tally(name, by_rows(tape, value, f"the metric {name!r}")), made=made)


def get(request: "str | Metric") -> Metric:
    """The table's row of a name (or the metric itself), reported under that name.

    Raises
    ------
    ValueError : an unknown name; the message lists the valid ones
    """
    if isinstance(request, Metric):
        return request if request.label else replace(request, label=request.name)
    names = {alias: row for row in METRICS.values() for alias in (row.name, *row.aliases)}
    if (name := listed(request, names)) is None:
        raise unknown("metric", request, names)
    return replace(names[name], label=name)


def bound(request: "str | Metric", loss: Loss, outputs: int) -> Metric:
    """The metric for a loss and so many outputs.

    Raises
    ------
    ValueError : an unknown name, or a metric that doesn't go with them
    """
    metric = get(request)
    if isinstance(loss.targets, tuple) and metric.name != "accuracy":
        raise ValueError(f"{metric.name} doesn't go with several columns of classes: accuracy does, the share of all")
    if metric.choose is None:
        return metric
    return replace(metric.choose(metric, loss, outputs), label=metric.label)


def config(request: "str | Metric") -> Any:
    """A metric as plain data: its name, or a dict of its options."""
    if isinstance(request, str):
        return request
    own = {} if request.made is None else {"made": request.made}
    return {"metric": request.name, "label": request.label, **dict(request.options), **own}


def from_config(content: Any) -> "str | Metric":
    """The metric that `config` described."""
    if isinstance(content, str):
        return content
    options = dict(content)
    if "made" in options:
        return replace(remade(options["metric"], options["made"]), label=options["label"])
    row = get(options.pop("metric"))
    return row.having(**options)


# ---------------------------------------------------------------- what users write


def Accuracy(name: str | None = None) -> Metric:
    """Share of rows given their class: `CategoricalAccuracy` or `BinaryAccuracy`, by loss and outputs, as in Keras.

    With logits (``from_logits=True``) it is the accuracy of the probabilities: a binary logit above 0 is class 1 (Keras
    compares the logit itself with 0.5). With hinge losses, whose targets are -1 and 1, an output above 0 is.

    Parameters
    ----------
    name : the name reported, by default the metric's
    """
    return METRICS["accuracy"].having(name)


def CategoricalAccuracy(name: str | None = None) -> Metric:
    """Share of rows whose highest output is that of their class (the first of equals); any categorical targets.

    Parameters
    ----------
    name : the name reported, by default the metric's
    """
    return METRICS["categorical_accuracy"].having(name)


def BinaryAccuracy(threshold: float | None = None, name: str | None = None) -> Metric:
    """Share of outputs on the right side of a probability (default 0.5), mean over a row's outputs; see `Accuracy`.

    Parameters
    ----------
    threshold : the probability, default 0.5
    name : the name reported, by default the metric's
    """
    return METRICS["binary_accuracy"].having(name, threshold=_threshold("BinaryAccuracy", threshold))


def TopKCategoricalAccuracy(k: int = 5, name: str | None = None) -> Metric:
    """Share of rows whose class is among the `k` highest outputs; an output equal to the k-th is among them.

    Parameters
    ----------
    k : at least 1, default 5
    name : the name reported, by default the metric's
    """
    return METRICS["top_k_categorical_accuracy"].having(name, k=whole("TopKCategoricalAccuracy: k", k))


def Precision(
    threshold: float | None = None,
    average: str | None = "macro",
    class_id: int | None = None,
    name: str | None = None,
) -> Metric:
    """Share of the rows given a class that have it, exact over the epoch; 0 where none is given it.

    Parameters
    ----------
    threshold : probability above which an output gives its class; by default the highest output of a softmax does, and
        for one output or several labels 0.5
    average : of several classes: "macro" (default) the mean over those that occur, "weighted" by the rows that have
        them, "micro" all decisions pooled (Keras' value is ``Precision(0.5, "micro")``), None an array with one each
    class_id : only this class
    name : the name reported
    """
    return _hits_metric("precision", threshold, average, class_id, name)


def Recall(
    threshold: float | None = None,
    average: str | None = "macro",
    class_id: int | None = None,
    name: str | None = None,
) -> Metric:
    """Share of the rows that have a class that are given it.

    Parameters
    ----------
    threshold, class_id : as for `Precision`
    average : as for `Precision`, default "macro"
    name : the name reported, by default the metric's
    """
    return _hits_metric("recall", threshold, average, class_id, name)


def F1Score(
    average: str | None = "macro",
    threshold: float | None = None,
    class_id: int | None = None,
    name: str | None = None,
) -> Metric:
    """Harmonic mean of precision and recall, class by class and then averaged.

    Parameters
    ----------
    threshold, class_id : as for `Precision`
    average : as for `Precision`, default "macro"
    name : the name reported, by default the metric's
    """
    return _hits_metric("f1_score", threshold, average, class_id, name)


def ConfusionMatrix(threshold: float | None = None, normalize: str | None = None, name: str | None = None) -> Metric:
    """How many rows of each class (first axis) were given each class (second), as scikit-learn's ``confusion_matrix``.

    (classes, classes) float64: (2, 2) for one output, and (labels, 2, 2) for several labels, as scikit-learn's
    ``multilabel_confusion_matrix``. ``evaluate`` returns the array, ``History`` holds one an epoch.

    Parameters
    ----------
    threshold : as for `Precision`
    normalize : "true" divides by the rows of each class, "pred" by those given it, "all" by all; None (default) counts
    name : the name reported
    """
    if normalize not in (None, "true", "pred", "all"):
        raise ValueError(f'ConfusionMatrix: normalize must be None, "true", "pred" or "all", got {normalize!r}')
    share = _threshold("ConfusionMatrix", threshold)
    return METRICS["confusion_matrix"].having(name, threshold=share, normalize=normalize)


def AUC(curve: str = "ROC", average: str | None = "macro", name: str | None = None) -> Metric:
    """Exact area under the ROC curve, from all scores of the epoch (Keras' has 200 thresholds); NaN for one class only.

    The scores are kept while the epoch runs: 2 outputs + 1 numbers a row.

    Parameters
    ----------
    curve : "ROC" (default), or "PR": the average precision
    average : of several classes, each against the rest: "macro" (default) the mean over those that have rows of both
        kinds, "weighted" by their rows, "micro" all pooled (as Keras), None an array with one each
    name : the name reported
    """
    if curve not in ("ROC", "PR"):
        raise ValueError(f'AUC: curve must be "ROC" or "PR", got {curve!r}')
    return METRICS["auc"].having(name, curve=curve, average=_average("AUC", average))


def LogLoss(name: str | None = None) -> Metric:
    """Cross-entropy of the probabilities, kept above 1e-7, whatever the loss; of logits where these are the outputs.

    Parameters
    ----------
    name : the name reported, by default the metric's
    """
    return METRICS["log_loss"].having(name)


def MeanSquaredError(name: str | None = None) -> Metric:
    """(a - y)**2, mean over outputs and rows.

    Parameters
    ----------
    name : the name reported, by default the metric's
    """
    return METRICS["mean_squared_error"].having(name)


def RootMeanSquaredError(name: str | None = None) -> Metric:
    """Square root of the mean over outputs and rows of (a - y)**2.

    Parameters
    ----------
    name : the name reported, by default the metric's
    """
    return METRICS["root_mean_squared_error"].having(name)


def MeanAbsoluteError(name: str | None = None) -> Metric:
    """abs(a - y), mean over outputs and rows.

    Parameters
    ----------
    name : the name reported, by default the metric's
    """
    return METRICS["mean_absolute_error"].having(name)


def R2Score(name: str | None = None) -> Metric:
    """1 - sum (a - y)**2 / sum (y - mean y)**2, mean over outputs; of constant targets 1 if all are hit, else 0.

    Parameters
    ----------
    name : the name reported, by default the metric's
    """
    return METRICS["r2_score"].having(name)


def _threshold(owner: str, value: Any) -> float | None:
    return None if value is None else number(f"{owner}: threshold", value)


def _average(owner: str, value: Any) -> str | None:
    if value not in (None, "macro", "micro", "weighted"):
        raise ValueError(f'{owner}: average must be "macro", "weighted", "micro" or None, got {value!r}')
    return value


def _hits_metric(
    row: str, threshold: float | None, average: str | None, class_id: int | None, name: str | None
) -> Metric:
    owner = {"precision": "Precision", "recall": "Recall", "f1_score": "F1Score"}[row]
    chosen = None if class_id is None else whole(f"{owner}: class_id", class_id, least=0)
    share = _threshold(owner, threshold)
    return METRICS[row].having(name, threshold=share, average=_average(owner, average), class_id=chosen)


answers(__name__, "custom")

"""Floor 1: losses: one row each, for every engine, test and benchmark; `formulas.losses` computes them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastbp._checks import flag, number
from fastbp._spelling import answers, listed
from fastbp.activations import unknown
from fastbp.formulas import losses as formulas
from fastbp.formulas.class_columns import crossentropies
from fastbp.formulas.losses import TINY
from fastbp.formulas.tracing import (
    Steps,
    derivative_of,
    elementwise,
    follow,
    kept,
    loss_by_rows,
    named,
    restored,
    unwrapped,
)


@dataclass(frozen=True)
class Loss:
    """One row of the table: what a user names in ``compile(loss=...)``.

    Attributes
    ----------
    name : how users call it
    function : f(a, y, p) -> (l, dl/da), of z and dl/dz where the loss is fused;
        for a coupled one f(da, a, y, n, weight, p) -> l, which writes weight * dl/da (of z where it is fused)
    targets : what y holds, see ``staging.TARGETS``: "dense" (N, O) numbers, or of a range, "labels" (N,) class numbers;
        of several columns of class numbers (see ``fastbp.formulas.class_columns``) how many classes each has
    fused_with : name of the output activation computed together with the loss, None where any will do
    parameters : names and values of p
    mean_outputs : whether the loss of a row is the mean over its outputs (else the sum)
    mean_rows : whether the loss of a batch is the mean over its rows (else the sum)
    coupled : whether it takes columns
    from_logits : the outputs are logits already: the last layer is linear, and `fused_with` is applied by the loss
    mask_nan : whether targets that are NaN are left out, see ``Model.compile``
    reported : what the value is multiplied by where it is reported; the gradient is that of the whole value
    aliases : other names
    made : the steps of a user's own function (see ``fastbp.formulas.tracing``)
    """

    name: str
    function: Callable[..., Any]
    targets: str | tuple[int, ...] = "dense"
    fused_with: str | None = None
    parameters: tuple[tuple[str, float], ...] = ()
    mean_outputs: bool = True
    mean_rows: bool = True
    coupled: bool = False
    from_logits: bool = False
    mask_nan: bool = False
    reported: float = 1.0
    aliases: tuple[str, ...] = ()
    made: Steps | None = None

    @property
    def values(self) -> tuple[float, ...]:
        """p."""
        return tuple(value for _, value in self.parameters)

    def having(self, **parameters: float) -> "Loss":
        """The same loss with other parameters."""
        return replace(self, parameters=tuple((name, float(parameters.pop(name, v))) for name, v in self.parameters))


SMOOTHING = ("label_smoothing", 0.0)
_logits: dict[str, Any] = {"fused_with": "softmax", "mean_outputs": False, "coupled": True}
_focal = (("gamma", 2.0), ("alpha", 0.25))

LOSSES = {
    row.name: row
    for row in (
        Loss("mean_squared_error", formulas.mean_squared_error, aliases=("mse",)),
        Loss("half_squared_error", formulas.half_squared_error, mean_outputs=False, mean_rows=False),
        Loss("mean_absolute_error", formulas.mean_absolute_error, aliases=("mae",)),
        Loss("mean_absolute_percentage_error", formulas.mean_absolute_percentage_error, aliases=("mape",)),
        Loss(
            "mean_squared_logarithmic_error", formulas.mean_squared_logarithmic_error, "not_negative", aliases=("msle",)
        ),
        Loss("huber", formulas.huber, parameters=(("delta", 1.0),)),
        Loss("log_cosh", formulas.log_cosh, aliases=("logcosh",)),
        Loss("quantile", formulas.quantile, parameters=(("quantile", 0.5),), aliases=("pinball",)),
        Loss("hinge", formulas.hinge, "signs"),
        Loss("squared_hinge", formulas.squared_hinge, "signs"),
        Loss("categorical_hinge", formulas.categorical_hinge, "probabilities", mean_outputs=False, coupled=True),
        Loss("kl_divergence", formulas.kl_divergence, "probabilities", mean_outputs=False, aliases=("kld",)),
        Loss("cosine_similarity", formulas.cosine_similarity, mean_outputs=False, coupled=True),
        Loss(
            "binary_crossentropy",
            formulas.binary_crossentropy,
            "probabilities",
            "sigmoid",
            (SMOOTHING,),
            aliases=("bce",),
        ),
        Loss(
            "binary_focal_crossentropy",
            formulas.binary_focal_crossentropy,
            "probabilities",
            "sigmoid",
            (*_focal, ("apply_class_balancing", 0.0), SMOOTHING),
        ),
        Loss(
            "categorical_crossentropy",
            formulas.categorical_crossentropy,
            "probabilities",
            parameters=(SMOOTHING,),
            **_logits,
        ),
        Loss(
            "categorical_focal_crossentropy",
            formulas.categorical_focal_crossentropy,
            "probabilities",
            parameters=(*_focal, SMOOTHING),
            **_logits,
        ),
        Loss(
            "sparse_categorical_crossentropy",
            formulas.categorical_crossentropy,
            "labels",
            parameters=(SMOOTHING,),
            **_logits,
        ),
        Loss(
            "sparse_categorical_focal_crossentropy",
            formulas.categorical_focal_crossentropy,
            "labels",
            parameters=(*_focal, SMOOTHING),
            **_logits,
        ),
        Loss("poisson", formulas.poisson, "not_negative"),
        Loss("poisson_deviance", formulas.poisson_deviance, "not_negative", "exponential"),
        Loss("gamma_deviance", formulas.gamma_deviance, "positive", "exponential", aliases=("gamma",)),
        Loss(
            "tweedie_deviance",
            formulas.tweedie_deviance,
            "not_negative",
            "exponential",
            (("power", 1.5),),
            aliases=("tweedie",),
        ),
        Loss(
            "negative_binomial_deviance",
            formulas.negative_binomial_deviance,
            "not_negative",
            "exponential",
            (("dispersion", 1.0),),
            aliases=("negative_binomial",),
        ),
    )
}


def custom(
    function: Callable[[Any, Any], Any], derivative: Callable[[Any, Any], Any] | None = None, *, name: str | None = None
) -> Loss:
    """A loss from a function of one's own, compiled like those of the table and kept in model files.

    Parameters
    ----------
    function : f(y_true, y_pred), as in Keras, of plain arithmetic and of functions of NumPy or ``fb.math``: the loss of
        each output, whose mean is taken, or, by sums and means over axis=-1, of each row
    derivative : the derivative of each output's loss by y_pred, of the same arguments; by default it is taken through
        `function`, step by step
    name : by default the function's

    Raises
    ------
    TypeError : the function does what can't be compiled
    """
    name = named(function, name, LOSSES)
    what = f"the loss {name!r}"
    tape, whole = follow(function, ["y_c", "a_c"], what)
    value, mean = unwrapped(tape, whole)
    if tape.kind(value) == "element" and not tape.reduces_in(value):
        slope = derivative_of(tape, value, "a_c")
        if derivative is not None:
            slope = follow(derivative, ["y_c", "a_c"], what, tape, constant=True)[1]
        return replace(remade(name, kept(tape, value, slope)), mean_outputs=mean)
    if derivative is not None:
        raise TypeError(f"{what} sums within a row: leave out the derivative, it is taken through the function")
    return remade(name, kept(tape, whole))


def remade(name: str, steps: Any) -> Loss:
    """The loss of `custom`, by its steps."""
    tape, results = restored(steps, 1, 2)
    made = tuple(tuple(step) for step in steps)
    if len(results) == 2:
        return Loss(name, elementwise(tape, results, "a_c, y_c, p"), made=made)
    function = loss_by_rows(tape, results[0], "a_c", f"the loss {name!r}")
    return Loss(name, function, mean_outputs=False, coupled=True, made=made)


def get(loss: str | Loss | Callable[[Any, Any], Any]) -> Loss:
    """The table row of a name, or the loss that a function makes."""
    if isinstance(loss, Loss):
        return loss
    if callable(loss):
        if getattr(loss, "__module__", "") == __name__:
            raise ValueError(f"loss={loss.__name__} makes a loss: call it, fb.{loss.__name__}()")
        return custom(loss)
    names = {alias: row for row in LOSSES.values() for alias in (row.name, *row.aliases)}
    if (name := listed(loss, names)) is None:
        raise unknown("loss", loss, names)
    return names[name]


def config(loss: Loss) -> dict[str, Any]:
    """The loss as plain data: `from_config` makes it again."""
    return {
        "name": loss.name,
        "parameters": dict(loss.parameters),
        "from_logits": loss.from_logits,
        "mask_nan": loss.mask_nan,
        **({"classes": loss.targets} if isinstance(loss.targets, tuple) else {}),
        **({} if loss.made is None else {"made": loss.made, "mean_outputs": loss.mean_outputs}),
    }


def from_config(config: dict[str, Any]) -> Loss:
    """The loss that `config` described."""
    if "made" in config:
        own = remade(config["name"], config["made"])
        return replace(own, mean_outputs=bool(config["mean_outputs"]), mask_nan=bool(config["mask_nan"]))
    if "classes" in config:
        return replace(SparseCategoricalCrossentropies(config["classes"]), mask_nan=bool(config["mask_nan"]))
    row, parameters = get(config["name"]), dict(config["parameters"])
    if parameters.keys() != dict(row.parameters).keys():
        wanted = ", ".join(name for name, _ in row.parameters) or "none"
        raise ValueError(f"loss {row.name!r} has the parameters {', '.join(parameters) or 'none'}; wanted {wanted}")
    from_logits, mask_nan = bool(config["from_logits"]), bool(config["mask_nan"])
    return replace(row.having(**parameters), from_logits=from_logits, mask_nan=mask_nan)


def check_output(loss: Loss, activation: str) -> None:
    """Refuse an output activation that the loss can't be computed from."""
    wanted = "linear" if loss.from_logits else loss.fused_with
    if wanted is not None and activation != wanted:
        if loss.from_logits:
            hint = 'give the last layer activation="linear"'
            if loss.fused_with is not None:
                hint += f', or use the loss by name with activation="{loss.fused_with}"'
        else:
            hint = f'give the last layer activation="{wanted}"'
            if activation == "linear":
                hint += f", or say that it gives logits: fb.{_class_name(loss)}(from_logits=True)"
        raise ValueError(f"loss {loss.name!r} needs {wanted} outputs, the last layer has {activation!r}: {hint}")


def _class_name(loss: Loss) -> str:
    return "".join(part.capitalize() for part in loss.name.split("_"))


def MeanSquaredError() -> Loss:
    """Mean over outputs and rows of (a - y)**2."""
    return LOSSES["mean_squared_error"]


def HalfSquaredError() -> Loss:
    """Half the sum over outputs *and rows* of (a - y)**2, as introductory texts write it."""
    return LOSSES["half_squared_error"]


def MeanAbsoluteError() -> Loss:
    """Mean over outputs and rows of abs(a - y)."""
    return LOSSES["mean_absolute_error"]


def MeanAbsolutePercentageError() -> Loss:
    """100 abs(a - y) / max(abs(y), 1e-7), mean over outputs and rows."""
    return LOSSES["mean_absolute_percentage_error"]


def MeanSquaredLogarithmicError() -> Loss:
    """(log(1 + a) - log(1 + y))**2, mean over outputs and rows, for y >= 0; outputs below 1e-7 count as 1e-7."""
    return LOSSES["mean_squared_logarithmic_error"]


def Huber(delta: float = 1.0) -> Loss:
    """Squared below `delta`, linear above (Huber 1964): d*d/2 for d = abs(a - y) <= delta, else delta*(d - delta/2).

    Parameters
    ----------
    delta : where it becomes linear, above 0, default 1

    Raises
    ------
    ValueError : a delta that isn't above 0
    """
    return LOSSES["huber"].having(delta=_within("Huber", "delta", delta, 0.0, math.inf, "above 0"))


def LogCosh() -> Loss:
    """log(cosh(a - y)), mean over outputs and rows: squared near 0, linear far away."""
    return LOSSES["log_cosh"]


def Quantile(quantile: float = 0.5) -> Loss:
    """The pinball loss, whose best output is a quantile of y (Koenker and Bassett 1978), mean over outputs and rows.

    q (y - a) where y is above a, (1 - q) (a - y) below; `quantile` q is between 0 and 1.

    Parameters
    ----------
    quantile : of the targets' distribution, between 0 and 1, default 0.5, their median

    Raises
    ------
    ValueError : a quantile that isn't between 0 and 1
    """
    return LOSSES["quantile"].having(quantile=_within("Quantile", "quantile", quantile, 0.0, 1.0, "between 0 and 1"))


def Hinge() -> Loss:
    """max(0, 1 - y a), mean over outputs and rows, for targets -1 and 1 (0 and 1 are taken for them)."""
    return LOSSES["hinge"]


def SquaredHinge() -> Loss:
    """max(0, 1 - y a)**2, mean over outputs and rows, for targets -1 and 1 (0 and 1 are taken for them)."""
    return LOSSES["squared_hinge"]


def CategoricalHinge() -> Loss:
    """max(0, 1 + the highest output of another class - the class's own), mean over rows, for one-hot targets (N, O)."""
    return LOSSES["categorical_hinge"]


def KLDivergence() -> Loss:
    """Sum over outputs of y log(y / a), mean over rows, for probabilities y and a; both are kept within 1e-7 and 1.

    With softmax outputs `CategoricalCrossentropy` has the same gradient and is safe at any logits.
    """
    return LOSSES["kl_divergence"]


def CosineSimilarity() -> Loss:
    """Minus the cosine of the angle between a row's outputs and its targets, mean over rows: -1 at best."""
    return LOSSES["cosine_similarity"]


def BinaryCrossentropy(from_logits: bool = False, label_smoothing: float = 0.0) -> Loss:
    """-y log a - (1 - y) log(1 - a), mean over outputs and rows; computed from logits inside either way.


    Parameters
    ----------
    from_logits : whether the last layer is linear and gives logits, default False
    label_smoothing : share, in [0, 1), of the distance that targets are moved to 0.5, default 0

    Raises
    ------
    ValueError : a label_smoothing out of its range, a from_logits that is no bool
    """
    row = LOSSES["binary_crossentropy"].having(label_smoothing=_smoothing("BinaryCrossentropy", label_smoothing))
    return replace(row, from_logits=flag("from_logits", from_logits))


def BinaryFocalCrossentropy(
    apply_class_balancing: bool = False,
    alpha: float = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
) -> Loss:
    """Binary cross-entropy times (1 - the share given to the right answer)**gamma (Lin et al. 2017).

    With `apply_class_balancing`, rows of class 1 count `alpha` and rows of class 0 count 1 - alpha.

    Parameters
    ----------
    apply_class_balancing : whether alpha counts, default False
    alpha : weight of the rows of class 1, between 0 and 1, default 0.25
    gamma : exponent, at least 0, default 2: the higher, the less rows that are right count
    from_logits : whether the last layer is linear and gives logits, default False
    label_smoothing : share, in [0, 1), of the distance that targets are moved to 0.5, default 0

    Raises
    ------
    ValueError : an alpha, gamma or label_smoothing out of its range, a switch that is no bool
    """
    row = LOSSES["binary_focal_crossentropy"].having(
        gamma=_within("BinaryFocalCrossentropy", "gamma", gamma, -TINY, math.inf, "at least 0"),
        alpha=_within("BinaryFocalCrossentropy", "alpha", alpha, 0.0, 1.0, "between 0 and 1"),
        apply_class_balancing=float(flag("apply_class_balancing", apply_class_balancing)),
        label_smoothing=_smoothing("BinaryFocalCrossentropy", label_smoothing),
    )
    return replace(row, from_logits=flag("from_logits", from_logits))


def CategoricalCrossentropy(from_logits: bool = False, label_smoothing: float = 0.0) -> Loss:
    """-sum over classes of y log a, mean over rows, for one-hot or soft targets (N, O); from logits inside.

    Parameters
    ----------
    from_logits : whether the last layer is linear and gives logits, default False
    label_smoothing : share, in [0, 1), of the distance that targets are moved to 1 / O, default 0 (Szegedy
        et al. 2016)

    Raises
    ------
    ValueError : a label_smoothing out of its range, a from_logits that is no bool
    """
    return _categorical("categorical_crossentropy", from_logits, label_smoothing)


def CategoricalFocalCrossentropy(
    alpha: float = 0.25, gamma: float = 2.0, from_logits: bool = False, label_smoothing: float = 0.0
) -> Loss:
    """Categorical cross-entropy, each class's term times alpha * (1 - its share)**gamma (Lin et al. 2017).

    Parameters
    ----------
    alpha : factor of all terms, above 0, default 0.25
    gamma : exponent, at least 0, default 2: the higher, the less rows that are right count
    from_logits : whether the last layer is linear and gives logits, default False
    label_smoothing : share, in [0, 1), of the distance that targets are moved to 1 / O, default 0

    Raises
    ------
    ValueError : an alpha, gamma or label_smoothing out of its range, a from_logits that is no bool
    """
    return _categorical("categorical_focal_crossentropy", from_logits, label_smoothing, alpha=alpha, gamma=gamma)


def SparseCategoricalCrossentropy(from_logits: bool = False, label_smoothing: float = 0.0) -> Loss:
    """-log a[label], mean over rows, for integer labels (N,); from logits inside; smoothing as for one-hot targets.

    Parameters
    ----------
    from_logits : whether the last layer is linear and gives logits, default False
    label_smoothing : share, in [0, 1), of the distance that targets are moved to 1 / O, default 0

    Raises
    ------
    ValueError : a label_smoothing out of its range, a from_logits that is no bool
    """
    return _categorical("sparse_categorical_crossentropy", from_logits, label_smoothing)


def SparseCategoricalFocalCrossentropy(
    alpha: float = 0.25, gamma: float = 2.0, from_logits: bool = False, label_smoothing: float = 0.0
) -> Loss:
    """`CategoricalFocalCrossentropy` for integer labels (N,).

    Parameters
    ----------
    alpha : factor of all terms, above 0, default 0.25
    gamma : exponent, at least 0, default 2: the higher, the less rows that are right count
    from_logits : whether the last layer is linear and gives logits, default False
    label_smoothing : share, in [0, 1), of the distance that targets are moved to 1 / O, default 0

    Raises
    ------
    ValueError : an alpha, gamma or label_smoothing out of its range, a from_logits that is no bool
    """
    return _categorical("sparse_categorical_focal_crossentropy", from_logits, label_smoothing, alpha=alpha, gamma=gamma)


def SparseCategoricalCrossentropies(classes: Sequence[int]) -> Loss:
    """The sum of the cross-entropies of several columns of integer labels, mean over rows; linear outputs.

    Parameters
    ----------
    classes : sequence of int
        How many classes each column of y (N, columns) has. The outputs are their logits side by side, so that the last
        layer is ``Dense(sum(classes))``; the class given for a column is that of its highest logit.

    Raises
    ------
    ValueError
        For anything but whole numbers of at least 1.
    """
    counts = tuple(classes)
    if not counts or not all(isinstance(count, int | np.integer) and count > 0 for count in counts):
        raise ValueError(f"SparseCategoricalCrossentropies: wanted how many classes each column has, got {classes!r}")
    name = "sparse_categorical_crossentropies"
    return Loss(name, crossentropies, tuple(map(int, counts)), mean_outputs=False, coupled=True, from_logits=True)


def Poisson() -> Loss:
    """a - y log(a + 1e-7), mean over outputs and rows, for counts y >= 0 and a rate a >= 0."""
    return LOSSES["poisson"]


def PoissonDeviance(from_logits: bool = False) -> Loss:
    """Half the deviance, y log(y / a) - y + a, mean over outputs and rows, for counts y >= 0; from log a inside.

    Parameters
    ----------
    from_logits : whether the last layer is linear and gives log a, default False

    Raises
    ------
    ValueError : a from_logits that is no bool
    """
    return replace(LOSSES["poisson_deviance"], from_logits=flag("from_logits", from_logits))


def GammaDeviance(from_logits: bool = False) -> Loss:
    """Half the deviance, log(a / y) + y / a - 1, mean over outputs and rows, for y > 0; from log a inside.

    Parameters
    ----------
    from_logits : whether the last layer is linear and gives log a, default False

    Raises
    ------
    ValueError : a from_logits that is no bool
    """
    return replace(LOSSES["gamma_deviance"], from_logits=flag("from_logits", from_logits))


def TweedieDeviance(power: float = 1.5, from_logits: bool = False) -> Loss:
    """Half the deviance of a variance a**power, 1 < power < 2, for y >= 0 with many zeros; from log a inside.

    y**(2-p) / ((1-p) (2-p)) - y a**(1-p) / (1-p) + a**(2-p) / (2-p), mean over outputs and rows (Jørgensen 1987).

    Parameters
    ----------
    power : p above, default 1.5
    from_logits : whether the last layer is linear and gives log a, default False

    Raises
    ------
    ValueError : a power that isn't between 1 and 2, a from_logits that is no bool
    """
    row = LOSSES["tweedie_deviance"]
    power = _within("TweedieDeviance", "power", power, 1.0, 2.0, "between 1 (poisson_deviance) and 2 (gamma_deviance)")
    return replace(row.having(power=power), from_logits=flag("from_logits", from_logits))


def NegativeBinomialDeviance(dispersion: float = 1.0, from_logits: bool = False) -> Loss:
    """Half the deviance of counts whose variance is a + dispersion * a**2, for y >= 0; from log a inside.

    y log(y / a) - (y + 1/d) log((1 + d y) / (1 + d a)), mean over outputs and rows (Hilbe 2011).

    Parameters
    ----------
    dispersion : d above, above 0, default 1
    from_logits : whether the last layer is linear and gives log a, default False

    Raises
    ------
    ValueError : a dispersion that isn't above 0, a from_logits that is no bool
    """
    dispersion = _within("NegativeBinomialDeviance", "dispersion", dispersion, 0.0, math.inf, "above 0")
    return replace(
        LOSSES["negative_binomial_deviance"].having(dispersion=dispersion), from_logits=flag("from_logits", from_logits)
    )


def _within(owner: str, name: str, value: Any, low: float, high: float, wanted: str) -> float:
    """The value as a float, if it is a number strictly between the bounds."""
    if not low < number(f"{owner}: {name}", value) < high:
        raise ValueError(f"{owner}: {name} must be {wanted}, got {value!r}")
    return float(value)


def _smoothing(owner: str, value: Any) -> float:
    return _within(owner, "label_smoothing", value, -TINY, 1.0, "in [0, 1)")


def _categorical(name: str, from_logits: bool, smoothing: float, **focal: float) -> Loss:
    owner = _class_name(LOSSES[name])
    if focal:
        focal["alpha"] = _within(owner, "alpha", focal["alpha"], 0.0, math.inf, "above 0")
        focal["gamma"] = _within(owner, "gamma", focal["gamma"], -TINY, math.inf, "at least 0")
    row = LOSSES[name].having(label_smoothing=_smoothing(owner, smoothing), **focal)
    return replace(row, from_logits=flag("from_logits", from_logits))


answers(__name__, "custom")

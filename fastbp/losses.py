"""Floor 1: losses. One row and one formula each, for every engine, test and benchmark.

A formula takes a (outputs), y (targets) and p (the loss's parameter) and returns (l, dl/da), element by element. A loss
that is *fused* with its output activation takes z instead of a, so that nothing overflows; categorical cross-entropy
couples the neurons of a row and takes columns.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fastbp._math import exp, formula, log, log1p, logistic
from fastbp._vector import copysign, maximum, minimum, where
from fastbp.activations import unknown


@dataclass(frozen=True)
class Loss:
    """One row of the table: what a user names in ``compile(loss=...)``.

    Attributes
    ----------
    name : how users call it
    function : f(a, y, p) -> (l, dl/da), of z and dl/dz where the loss is fused;
        for a coupled one f(dz, z, y, n, weight) -> l, which writes weight * dl/dz
    targets : what y holds: "dense" (N, O) numbers, "probabilities" (N, O) in [0, 1], "labels" (N,) class numbers
    fused_with : name of the output activation computed together with the loss, None where any will do
    parameter : default of p, None where there is none
    mean_outputs : whether the loss of a row is the mean over its outputs (else the sum)
    mean_rows : whether the loss of a batch is the mean over its rows (else the sum)
    coupled : whether it takes columns
    from_logits : the outputs are logits already: the last layer is linear, and `fused_with` is applied by the loss
    mask_nan : whether targets that are NaN are left out, see ``Model.compile``
    aliases : other names
    """

    name: str
    function: Callable[..., Any]
    targets: str = "dense"
    fused_with: str | None = None
    parameter: float | None = None
    mean_outputs: bool = True
    mean_rows: bool = True
    coupled: bool = False
    from_logits: bool = False
    mask_nan: bool = False
    aliases: tuple[str, ...] = ()


@formula
def mean_squared_error(a: Any, y: Any, p: Any) -> Any:
    d = a - y
    return d * d, 2.0 * d


@formula
def half_squared_error(a: Any, y: Any, p: Any) -> Any:
    d = a - y
    return 0.5 * d * d, d


@formula
def mean_absolute_error(a: Any, y: Any, p: Any) -> Any:
    d = a - y
    return abs(d), where(d == 0.0, d, copysign(1.0, d))


@formula
def huber(a: Any, y: Any, p: Any) -> Any:
    d = a - y
    near = minimum(abs(d), p)
    return near * (abs(d) - 0.5 * near), copysign(near, d)


@formula
def binary_crossentropy(z: Any, y: Any, p: Any) -> Any:
    return maximum(z, 0.0) - z * y + log1p(exp(-abs(z))), logistic(z) - y


@formula
def poisson(a: Any, y: Any, p: Any) -> Any:
    rate = maximum(a, 0.0) + 1e-7
    return a - y * log(rate), 1.0 - where(a >= 0.0, y / rate, 0.0)


@formula
def poisson_deviance(z: Any, y: Any, p: Any) -> Any:
    rate = exp(z)
    seen = maximum(y, 1e-30)
    return rate - y * z + where(y > 0.0, y * log(seen) - y, 0.0), rate - y


@formula
def categorical_crossentropy(dz: Any, z: Any, y: Any, n: int, weight: Any) -> Any:
    peak = z[0]
    for c in range(1, n):
        peak = maximum(peak, z[c])
    norm = peak * 0.0
    mass = norm
    inner = norm
    for c in range(n):
        shifted = z[c] - peak
        e = exp(shifted)
        dz[c] = e
        norm = norm + e
        mass = mass + y[c]
        inner = inner + y[c] * shifted
    scale = mass / norm
    for c in range(n):
        dz[c] = (dz[c] * scale - y[c]) * weight
    return mass * log(norm) - inner


LOSSES = {
    row.name: row
    for row in (
        Loss("mean_squared_error", mean_squared_error, aliases=("mse",)),
        Loss("half_squared_error", half_squared_error, mean_outputs=False, mean_rows=False),
        Loss("mean_absolute_error", mean_absolute_error, aliases=("mae",)),
        Loss("huber", huber, parameter=1.0),
        Loss("binary_crossentropy", binary_crossentropy, targets="probabilities", fused_with="sigmoid"),
        Loss(
            "categorical_crossentropy",
            categorical_crossentropy,
            targets="probabilities",
            fused_with="softmax",
            mean_outputs=False,
            coupled=True,
        ),
        Loss(
            "sparse_categorical_crossentropy",
            categorical_crossentropy,
            targets="labels",
            fused_with="softmax",
            mean_outputs=False,
            coupled=True,
        ),
        Loss("poisson", poisson),
        Loss("poisson_deviance", poisson_deviance, fused_with="exponential"),
    )
}


def get(loss: str | Loss) -> Loss:
    """The table row of a name."""
    if isinstance(loss, Loss):
        return loss
    names = {alias: row for row in LOSSES.values() for alias in (row.name, *row.aliases)}
    if not isinstance(loss, str) or loss.lower() not in names:
        raise unknown("loss", loss, names)
    return names[loss.lower()]


def config(loss: Loss) -> dict[str, Any]:
    """The loss as plain data: `from_config` makes it again."""
    return {
        "name": loss.name,
        "parameter": loss.parameter,
        "from_logits": loss.from_logits,
        "mask_nan": loss.mask_nan,
    }


def from_config(config: dict[str, Any]) -> Loss:
    """The loss with the name, parameter and from_logits that a model file holds."""
    row = get(config["name"])
    parameter = None if row.parameter is None else float(config["parameter"])
    mask_nan = bool(config.get("mask_nan", False))
    return replace(row, parameter=parameter, from_logits=bool(config["from_logits"]), mask_nan=mask_nan)


def check_output(loss: Loss, activation: str) -> None:
    """Refuse an output activation that the loss can't be computed from."""
    wanted = "linear" if loss.from_logits else loss.fused_with
    if wanted is not None and activation != wanted:
        if loss.from_logits:
            hint = (
                f'give the last layer activation="linear", or use the loss by name with activation="{loss.fused_with}"'
            )
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


def Huber(delta: float = 1.0) -> Loss:
    """Squared below `delta`, linear above (Huber 1964): d*d/2 for d = abs(a - y) <= delta, else delta*(d - delta/2)."""
    if not delta > 0:
        raise ValueError(f"Huber: delta must be above 0, got {delta}")
    return replace(LOSSES["huber"], parameter=float(delta))


def BinaryCrossentropy(from_logits: bool = False) -> Loss:
    """-y log a - (1 - y) log(1 - a), mean over outputs and rows; computed from logits inside either way."""
    return replace(LOSSES["binary_crossentropy"], from_logits=from_logits)


def CategoricalCrossentropy(from_logits: bool = False) -> Loss:
    """-sum over classes of y log a, mean over rows, for one-hot or soft targets (N, O); from logits inside."""
    return replace(LOSSES["categorical_crossentropy"], from_logits=from_logits)


def SparseCategoricalCrossentropy(from_logits: bool = False) -> Loss:
    """-log a[label], mean over rows, for integer labels (N,); from logits inside."""
    return replace(LOSSES["sparse_categorical_crossentropy"], from_logits=from_logits)


def Poisson() -> Loss:
    """a - y log(a + 1e-7), mean over outputs and rows, for counts y >= 0 and a rate a >= 0."""
    return LOSSES["poisson"]


def PoissonDeviance(from_logits: bool = False) -> Loss:
    """Half the deviance, y log(y / a) - y + a, mean over outputs and rows, for counts y >= 0; from log a inside."""
    return replace(LOSSES["poisson_deviance"], from_logits=from_logits)

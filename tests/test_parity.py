"""The same network trained by fastbp and by PyTorch, in float64: equal to the last digits."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from helpers import inputs, make, targets

import fastbp as fb
from fastbp import schedules
from fastbp.optimizers import OPTIMIZERS, Optimizer
from fastbp.schedules import SCHEDULES, Schedule

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

TINY = 1e-30
"""An epsilon so small that its place (inside the root or outside) makes no difference."""
Factory = Callable[..., Any]
PAIRS: list[tuple[Optimizer, str, dict[str, Any]]] = [
    (fb.SGD(0.05), "SGD", {"lr": 0.05}),
    (fb.SGD(0.05, 0.9), "SGD", {"lr": 0.05, "momentum": 0.9}),
    (fb.SGD(0.05, 0.9, nesterov=True), "SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    (fb.RMSprop(0.01, 0.8, epsilon=TINY), "RMSprop", {"lr": 0.01, "alpha": 0.8, "eps": TINY}),
    (
        fb.RMSprop(0.01, 0.8, 0.7, TINY, centered=True),
        "RMSprop",
        {"lr": 0.01, "alpha": 0.8, "momentum": 0.7, "eps": TINY, "centered": True},
    ),
    (
        fb.Adagrad(0.05, 0.25, TINY),
        "Adagrad",
        {"lr": 0.05, "initial_accumulator_value": 0.25, "eps": TINY},
    ),
    (fb.Adadelta(0.5, 0.9, 1e-6), "Adadelta", {"lr": 0.5, "rho": 0.9, "eps": 1e-6}),
    (fb.Adam(0.01, 0.8, 0.95, 1e-3), "Adam", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3}),
    (
        fb.Adam(0.01, 0.8, 0.5, 1e-3, amsgrad=True),
        "Adam",
        {"lr": 0.01, "betas": (0.8, 0.5), "eps": 1e-3, "amsgrad": True},
    ),
    (fb.AdamW(0.01, 0.3, epsilon=1e-8), "AdamW", {"lr": 0.01, "weight_decay": 0.3}),
    (
        fb.AdamW(0.01, 0.3, beta_2=0.5, amsgrad=True, epsilon=1e-8),
        "AdamW",
        {"lr": 0.01, "weight_decay": 0.3, "betas": (0.9, 0.5), "amsgrad": True},
    ),
    (fb.Nadam(0.01, epsilon=1e-8), "NAdam", {"lr": 0.01}),
    (
        fb.Nadam(0.01, momentum_decay=0.2, epsilon=1e-8, weight_decay=0.3),
        "NAdam",
        {"lr": 0.01, "momentum_decay": 0.2, "weight_decay": 0.3, "decoupled_weight_decay": True},
    ),
    (fb.RAdam(0.01, beta_2=0.9, epsilon=1e-8), "RAdam", {"lr": 0.01, "betas": (0.9, 0.9)}),
    (
        fb.RAdam(0.01, epsilon=1e-8, weight_decay=0.3),
        "RAdam",
        {"lr": 0.01, "weight_decay": 0.3, "decoupled_weight_decay": True},
    ),
]
BATCH, EPOCHS = 16, 4
X, Y = inputs(50, 9), targets("sparse_categorical_crossentropy", 50, 3)


@pytest.fixture(autouse=True)
def float64_scalars() -> Iterator[None]:
    """PyTorch keeps the scalars of its optimizers (NAdam's product) in its default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_every_optimizer_that_pytorch_has_is_compared() -> None:
    assert {optimizer.name for optimizer, _, _ in PAIRS} == OPTIMIZERS.keys() - {"lion"}


def ours() -> fb.Model:
    return make([9, 12, 3], "tanh", "softmax", dtype="float64")


def theirs(weights: list[np.ndarray]) -> Any:
    model = torch.nn.Sequential(torch.nn.Linear(9, 12), torch.nn.Tanh(), torch.nn.Linear(12, 3)).double()
    put(model, weights)
    return model


def put(model: Any, weights: list[np.ndarray]) -> None:
    for parameter, array in zip(model.parameters(), weights, strict=True):
        parameter.data = torch.tensor(array.T.copy())


def train(model: Any, optimizer: Any, after: Callable[[], None] = lambda: None) -> None:
    for _ in range(EPOCHS):
        for start in range(0, len(X), BATCH):
            optimizer.zero_grad()
            output = model(torch.tensor(X[start : start + BATCH]))
            torch.nn.functional.cross_entropy(output, torch.tensor(Y[start : start + BATCH])).backward()
            optimizer.step()
            after()


def fitted(optimizer: Optimizer) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Weights before and after."""
    model = ours()
    before = model.get_weights()
    model.compile(optimizer, "sparse_categorical_crossentropy")
    model.fit(X, Y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0)
    return before, model.get_weights()


def check(got: list[np.ndarray], model: Any) -> None:
    for array, parameter in zip(got, model.parameters(), strict=True):
        np.testing.assert_allclose(array.T, parameter.detach().numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("optimizer", "name", "settings"), PAIRS, ids=lambda value: repr(value)[:60])
def test_optimizers(optimizer: Optimizer, name: str, settings: dict[str, Any]) -> None:
    before, got = fitted(optimizer)
    model = theirs(before)
    train(model, getattr(torch.optim, name)(model.parameters(), **settings))
    check(got, model)


def test_the_average_of_the_weights() -> None:
    before, got = fitted(fb.SGD(0.05, use_ema=True, ema_momentum=0.8))
    model = theirs(before)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.8))
    train(model, torch.optim.SGD(model.parameters(), lr=0.05), lambda: average.update_parameters(model))
    check(got, average.module)


def rates(factory: Callable[[Any], Any], rate: float, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=rate)
    scheduler = factory(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


CURVES: list[tuple[Schedule, Callable[[Any, Any], Any]]] = [
    (schedules.ExponentialDecay(0.1, 1, 0.9), lambda s, o: s.ExponentialLR(o, 0.9)),
    (schedules.StepDecay(0.1, 7, 0.5), lambda s, o: s.StepLR(o, 7, 0.5)),
    (schedules.PiecewiseConstantDecay([6, 15], [0.1, 0.02, 0.004]), lambda s, o: s.MultiStepLR(o, [7, 16], 0.2)),
    (schedules.PolynomialDecay(0.1, 30, 0.0, 2.0), lambda s, o: s.PolynomialLR(o, 30, 2.0)),
    (schedules.CosineDecay(0.1, 60, 0.2), lambda s, o: s.CosineAnnealingLR(o, 60, 0.02)),
    (schedules.CosineDecayRestarts(0.1, 5, 2.0), lambda s, o: s.CosineAnnealingWarmRestarts(o, 5, 2)),
    (schedules.CosineDecayRestarts(0.1, 6, 1.0, alpha=0.1), lambda s, o: s.CosineAnnealingWarmRestarts(o, 6, 1, 0.01)),
    (schedules.LinearWarmup(0.1, 8, 0.025), lambda s, o: s.LinearLR(o, 0.25, 1.0, 8)),
    (schedules.OneCycle(0.1, 61), lambda s, o: s.OneCycleLR(o, 0.1, 61, cycle_momentum=False)),
]


@pytest.mark.parametrize(("schedule", "factory"), CURVES, ids=lambda value: repr(value)[:60])
def test_schedules(schedule: Schedule, factory: Callable[[Any, Any], Any]) -> None:
    wanted = rates(lambda optimizer: factory(torch.optim.lr_scheduler, optimizer), 0.1, 60)
    np.testing.assert_allclose(schedule(np.arange(60)), wanted, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("anneal", ["cosine", "linear"])
def test_one_cycle(anneal: str) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.3, 50, pct_start=0.2, anneal_strategy=anneal[:3] if anneal == "cosine" else anneal, div_factor=10
    )
    cycle = schedules.OneCycle(0.3, 50, pct_start=0.2, anneal=anneal, div_factor=10)
    for step in range(50):
        group = optimizer.param_groups[0]
        assert cycle(step) == pytest.approx(group["lr"], rel=1e-9)
        assert cycle.momentum()(step) == pytest.approx(group["momentum"], rel=1e-9)
        optimizer.step()
        if step < 49:
            scheduler.step()


def test_every_schedule_that_pytorch_has_is_compared() -> None:
    here = {type(schedule).__name__ for schedule, _ in CURVES} | {"OneCycleMomentum"}
    assert here == SCHEDULES.keys() - {"InverseTimeDecay"}


# --- losses -----------------------------------------------------------------------------------------------------------


def smoothed(y: Any, share: float, rest: float) -> Any:
    return y * (1 - share) + rest * share


LOSS_PAIRS: list[tuple[Any, str, Callable[[Any, Any], Any]]] = [
    (fb.MeanSquaredError(), "linear", lambda z, y: torch.nn.functional.mse_loss(z, y)),
    (fb.HalfSquaredError(), "linear", lambda z, y: 0.5 * torch.nn.functional.mse_loss(z, y, reduction="sum")),
    (fb.MeanAbsoluteError(), "linear", lambda z, y: torch.nn.functional.l1_loss(z, y)),
    (fb.Huber(delta=0.7), "linear", lambda z, y: torch.nn.functional.huber_loss(z, y, delta=0.7)),
    (fb.CosineSimilarity(), "linear", lambda z, y: -torch.nn.functional.cosine_similarity(z, y).mean()),
    (fb.BinaryCrossentropy(), "sigmoid", lambda z, y: torch.nn.functional.binary_cross_entropy_with_logits(z, y)),
    (
        fb.BinaryCrossentropy(label_smoothing=0.2),
        "sigmoid",
        lambda z, y: torch.nn.functional.binary_cross_entropy_with_logits(z, smoothed(y, 0.2, 0.5)),
    ),
    (fb.CategoricalCrossentropy(), "softmax", lambda z, y: torch.nn.functional.cross_entropy(z, y)),
    (
        fb.CategoricalCrossentropy(label_smoothing=0.3),
        "softmax",
        lambda z, y: torch.nn.functional.cross_entropy(z, y, label_smoothing=0.3),
    ),
    (fb.SparseCategoricalCrossentropy(), "softmax", lambda z, y: torch.nn.functional.cross_entropy(z, y)),
    (
        fb.SparseCategoricalCrossentropy(label_smoothing=0.1),
        "softmax",
        lambda z, y: torch.nn.functional.cross_entropy(z, y, label_smoothing=0.1),
    ),
    (
        fb.KLDivergence(),
        "softmax",
        lambda z, y: torch.nn.functional.kl_div(torch.log_softmax(z, 1), y, reduction="batchmean"),
    ),
    (  # PyTorch's leaves out what doesn't depend on the outputs
        fb.PoissonDeviance(),
        "exponential",
        lambda z, y: torch.nn.functional.poisson_nll_loss(z, y) + (torch.xlogy(y, y) - y).mean(),
    ),
]


@pytest.mark.parametrize(("loss", "output", "function"), LOSS_PAIRS, ids=lambda value: repr(value)[:60])
def test_losses(loss: Any, output: str, function: Callable[[Any, Any], Any]) -> None:
    model = make([9, 12, 3], "tanh", output, dtype="float64")
    model.compile("sgd", loss)
    y = targets(loss.name, 50, 3)
    other = theirs(model.get_weights())
    value = function(other(torch.tensor(X)), torch.tensor(y))
    value.backward()
    # the divergence takes the logarithm of numbers that are held above 1e-7, as in Keras
    tolerance = 1e-5 if loss.name == "kl_divergence" else 1e-9
    assert model.evaluate(X, y) == pytest.approx(value.item(), rel=tolerance)
    for gradient, parameter in zip(model.gradients(X, y), other.parameters(), strict=True):
        np.testing.assert_allclose(gradient.T, parameter.grad.numpy(), rtol=tolerance, atol=tolerance)

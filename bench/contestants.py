"""The contestants of the race, each at its strong form, all doing the same mathematics on the same batches.

A contestant is made from a network, an optimizer, the data, a thread count and a number type; ``run(epochs)`` trains
and returns when the work is done; ``weights()`` gives ``(I, O)`` kernels and biases, so that one NumPy loss judges all
of them. Making one whose library is missing raises ImportError, one that doesn't know the number type ValueError.
A network may stand for many copies that train at once on the same batches; arrays then have a first axis for them.
Those that run on a GPU as well are varied in ``device_contestants.py``.

"bfloat16" means the same to all: weights, moments and updates in float32, the numbers of the products in bfloat16.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from networks import SETTINGS, STORED, Network

Factory = Callable[[Network, str, np.ndarray, np.ndarray, int, str], "Contestant"]


class Contestant(Protocol):
    """What the race asks of a contestant."""

    def run(self, epochs: int) -> None:
        """Train for `epochs` epochs on the batches in their order, and return when the weights are there."""

    def weights(self) -> list[np.ndarray]:
        """Return the weights: kernel (I, O), bias (O,), kernel ..."""


class Fastbp:
    """fastbp through its public doors, ``Model.fit`` and ``fit_many``."""

    def __init__(
        self, network: Network, optimizer: str, x: np.ndarray, y: np.ndarray, threads: int, dtype: str, **options: Any
    ) -> None:
        import fastbp as fb

        seeds = range(1, network.copies + 1)
        self._models = [network.model(optimizer, threads, dtype, seed=seed, **options) for seed in seeds]
        self._fit_many = fb.fit_many
        self._fit = {"x": x, "y": y, "batch_size": network.batch, "shuffle": False, "verbose": 0}

    def run(self, epochs: int) -> None:
        if len(self._models) == 1:
            self._models[0].fit(**self._fit, epochs=epochs)
        else:
            self._fit_many(self._models, **self._fit, epochs=epochs)

    def weights(self) -> list[np.ndarray]:
        if len(self._models) == 1:
            return list(self._models[0].get_weights())
        return [np.stack(arrays) for arrays in zip(*(model.get_weights() for model in self._models), strict=True)]


class Jax:
    """JAX with a whole epoch under ``lax.scan`` in one jitted call whose state is donated.

    Two steps per turn of the scan: of 1, 2 and 4 the fastest or within 3 % of it on tiny, small, tab and simplechains.
    """

    def __init__(
        self, network: Network, optimizer: str, x: np.ndarray, y: np.ndarray, threads: int, dtype: str
    ) -> None:
        import jax
        import jax.numpy as jnp

        hidden = {"relu": jax.nn.relu, "tanh": jnp.tanh}[network.hidden]
        setting = SETTINGS[optimizer]

        def product(a: Any, w: Any) -> Any:
            if dtype != "bfloat16":
                return a @ w
            return jnp.matmul(a.astype(jnp.bfloat16), w.astype(jnp.bfloat16), preferred_element_type=jnp.float32)

        def loss_of(params: list[Any], xb: Any, yb: Any) -> Any:
            z = xb
            for layer in range(0, len(params), 2):
                z = product(z, params[layer]) + params[layer + 1]
                if layer + 2 < len(params):
                    z = hidden(z)
            if network.output == "softmax":
                return (jax.nn.logsumexp(z, axis=1) - jnp.take_along_axis(z, yb[:, None], 1)[:, 0]).mean()
            if network.output == "sigmoid":
                return (jnp.logaddexp(0, z) - z * yb).mean()
            return ((z - yb) ** 2).mean()

        def sgd(state: Any, batch: Any) -> Any:
            params, velocity = state
            loss, grads = jax.value_and_grad(loss_of)(params, *batch)
            rate, momentum = setting["learning_rate"], setting["momentum"]
            velocity = jax.tree.map(lambda v, g: momentum * v - rate * g, velocity, grads)
            return (jax.tree.map(jnp.add, params, velocity), velocity), loss

        def adam(state: Any, batch: Any) -> Any:
            params, mean, square, step = state
            loss, grads = jax.value_and_grad(loss_of)(params, *batch)
            beta_1, beta_2, step = setting["beta_1"], setting["beta_2"], step + 1
            mean = jax.tree.map(lambda m, g: beta_1 * m + (1 - beta_1) * g, mean, grads)
            square = jax.tree.map(lambda s, g: beta_2 * s + (1 - beta_2) * g * g, square, grads)
            rate = setting["learning_rate"] * jnp.sqrt(1 - beta_2**step) / (1 - beta_1**step)
            params = jax.tree.map(
                lambda p, m, s: p - rate * m / (jnp.sqrt(s) + setting["epsilon"]), params, mean, square
            )
            return (params, mean, square, step), loss

        step = {"sgd": sgd, "adam": adam}[optimizer]
        if network.copies > 1:
            step = jax.vmap(step, in_axes=(0, None))
        self._epoch = jax.jit(lambda state, xs, ys: jax.lax.scan(step, state, (xs, ys), unroll=2), donate_argnums=0)
        batches = (network.steps, network.batch)
        self._xs = jnp.asarray(x.reshape(*batches, -1))
        self._ys = jnp.asarray(y.astype(np.int32) if y.ndim == 1 else y).reshape(*batches, *y.shape[1:])
        params = [jnp.array(w, STORED[dtype]) for w in network.start()]
        moments = [[jnp.zeros_like(w) for w in params] for _ in range({"sgd": 1, "adam": 2}[optimizer])]
        count = jnp.zeros((network.copies,) if network.copies > 1 else (), STORED[dtype])
        self._state = (params, *moments) + ((count,) if optimizer == "adam" else ())
        self._wait = jax.block_until_ready

    def run(self, epochs: int) -> None:
        for _ in range(epochs):
            self._state, _ = self._epoch(self._state, self._xs, self._ys)
        self._wait(self._state)

    def weights(self) -> list[np.ndarray]:
        return [np.asarray(w) for w in self._state[0]]


class _Torch:
    """What all forms of PyTorch share: the batches, the parameters and the loss, of all copies together."""

    device = "cpu"
    _step: Callable[[Any, Any], Any]

    def __init__(
        self, network: Network, optimizer: str, x: np.ndarray, y: np.ndarray, threads: int, dtype: str
    ) -> None:
        import torch
        from torch.nn import functional

        torch.set_num_threads(threads)
        rows = (torch.from_numpy(array).to(self.device).split(network.batch) for array in (x, y))
        self._batches = list(zip(*rows, strict=True))
        start, copies, device, half = network.start(), network.copies, self.device, dtype == "bfloat16"
        # a single kernel is kept (O, I), as PyTorch's Linear does
        arrays = [w if copies > 1 else w.T for w in start]
        self._params = [torch.from_numpy(w.astype(STORED[dtype], order="C")).to(self.device) for w in arrays]
        hidden = {"relu": torch.relu, "tanh": torch.tanh}[network.hidden]
        criterion = {
            "softmax": functional.cross_entropy,
            "sigmoid": functional.binary_cross_entropy_with_logits,
            "linear": functional.mse_loss,
        }[network.output]

        def loss_of(params: list[Any], xb: Any, yb: Any) -> Any:
            # casts that autocast keeps can't be captured in a CUDA graph; each weight is cast once a step anyway
            with torch.autocast(device, torch.bfloat16, cache_enabled=False) if half else nullcontext():
                z = xb.expand(copies, *xb.shape) if copies > 1 else xb
                for layer in range(0, len(params), 2):
                    kernel, bias = params[layer], params[layer + 1]
                    if copies > 1:
                        z = torch.baddbmm(bias.unsqueeze(1), z, kernel)
                    else:
                        z = functional.linear(z, kernel, bias)
                    if layer + 2 < len(params):
                        z = hidden(z)
            z = z.to(params[0].dtype)
            if copies == 1:
                return criterion(z, yb)
            return criterion(z.flatten(0, 1), torch.cat([yb] * copies)) * copies

        self._loss_of = loss_of

    def run(self, epochs: int) -> None:
        for _ in range(epochs):
            for xb, yb in self._batches:
                self._step(xb, yb)

    def weights(self) -> list[np.ndarray]:
        arrays = [p.detach().cpu().numpy() for p in self._params]
        return arrays if arrays[0].ndim == 3 else [array.T for array in arrays]


class TorchEager(_Torch):
    """PyTorch as most people write it, with the fused optimizer; in bfloat16 under autocast."""

    capturable = False

    def __init__(
        self, network: Network, optimizer: str, x: np.ndarray, y: np.ndarray, threads: int, dtype: str
    ) -> None:
        super().__init__(network, optimizer, x, y, threads, dtype)
        import torch

        setting = SETTINGS[optimizer]
        self._params = [torch.nn.Parameter(p) for p in self._params]
        if optimizer == "sgd":
            self._rule: Any = torch.optim.SGD(self._params, setting["learning_rate"], setting["momentum"], fused=True)
        else:
            self._rule = torch.optim.Adam(
                self._params,
                setting["learning_rate"],
                (setting["beta_1"], setting["beta_2"]),
                setting["epsilon"],
                fused=True,
                capturable=self.capturable,
            )

    def _step(self, xb: Any, yb: Any) -> None:
        self._rule.zero_grad()
        self._loss_of(self._params, xb, yb).backward()
        self._rule.step()


class TorchCompile(_Torch):
    """PyTorch with the whole step, gradient and update included, compiled to one graph behind a C++ wrapper.

    On tiny (2 threads, SGD) this form takes 42 us a step, without the C++ wrapper 58 us, and with only the loss
    compiled and the fused optimizer 225 us.
    """

    def __init__(
        self, network: Network, optimizer: str, x: np.ndarray, y: np.ndarray, threads: int, dtype: str
    ) -> None:
        super().__init__(network, optimizer, x, y, threads, dtype)
        import torch

        setting = SETTINGS[optimizer]
        params, gradient = self._params, torch.func.grad_and_value(self._loss_of)
        first = [torch.zeros_like(p) for p in params]
        second = [torch.zeros_like(p) for p in params]
        # In torch 2.13 a compiled graph computes with a float64 tensor of no dimensions as if it never changed.
        step_count = torch.zeros(1, dtype=params[0].dtype)

        def sgd(xb: Any, yb: Any) -> Any:
            grads, loss = gradient(params, xb, yb)
            for p, v, g in zip(params, first, grads, strict=True):
                v.mul_(setting["momentum"]).add_(g)
                p.sub_(v, alpha=setting["learning_rate"])
            return loss

        def adam(xb: Any, yb: Any) -> Any:
            grads, loss = gradient(params, xb, yb)
            beta_1, beta_2 = setting["beta_1"], setting["beta_2"]
            step_count.add_(1)
            rate = setting["learning_rate"] * torch.sqrt(1 - beta_2**step_count) / (1 - beta_1**step_count)
            for p, m, s, g in zip(params, first, second, grads, strict=True):
                m.lerp_(g, 1 - beta_1)
                s.mul_(beta_2).addcmul_(g, g, value=1 - beta_2)
                p.sub_(rate * m / (torch.sqrt(s) + setting["epsilon"]))
            return loss

        torch.compiler.reset()
        self._no_grad = torch.no_grad
        self._step = torch.compile({"sgd": sgd, "adam": adam}[optimizer], options={"cpp_wrapper": True})

    def run(self, epochs: int) -> None:
        with self._no_grad():
            super().run(epochs)


class _OneHot:
    """Labels to one column a class: scikit-learn's own gives two classes one column and one sigmoid output."""

    def __init__(self, classes: int) -> None:
        self._rows = np.eye(classes, dtype=bool)

    def transform(self, y: np.ndarray) -> np.ndarray:
        return np.take(self._rows, y, axis=0)


class ScikitLearn:
    """scikit-learn's MLPClassifier or MLPRegressor, one ``partial_fit`` an epoch, BLAS at `threads`."""

    def __init__(
        self, network: Network, optimizer: str, x: np.ndarray, y: np.ndarray, threads: int, dtype: str
    ) -> None:
        from sklearn.neural_network import MLPClassifier, MLPRegressor
        from threadpoolctl import threadpool_limits

        if dtype == "bfloat16":
            raise ValueError("scikit-learn has no bfloat16")
        setting = SETTINGS[optimizer]
        # scikit-learn's squared error is half the mean over rows and sums the outputs' gradients.
        scale = 2 / network.widths[-1] if network.output == "linear" else 1
        if optimizer == "sgd":
            rule = {
                "solver": "sgd",
                "learning_rate_init": setting["learning_rate"] * scale,
                "momentum": setting["momentum"],
                "nesterovs_momentum": False,
            }
        else:
            rule = {
                "solver": "adam",
                "learning_rate_init": setting["learning_rate"],
                "beta_1": setting["beta_1"],
                "beta_2": setting["beta_2"],
                "epsilon": setting["epsilon"] / scale,
            }
        kind = MLPRegressor if network.output == "linear" else MLPClassifier
        self._model = kind(
            hidden_layer_sizes=network.widths[1:-1],
            activation=network.hidden,
            alpha=0.0,
            batch_size=network.batch,
            shuffle=False,
            tol=0.0,
            n_iter_no_change=10**9,
            **rule,
        )
        self._x, self._y = x, y.ravel() if network.widths[-1] == 1 else y
        self._blas = threadpool_limits(limits=threads, user_api="blas")
        outputs = network.widths[-1]
        start = {"classes": np.arange(max(outputs, 3) if outputs > 1 else 2)} if kind is MLPClassifier else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self._model.partial_fit(self._x[:2], self._y[:2], **start)
        weights = [w.astype(dtype) for w in network.weights()]
        self._model.coefs_, self._model.intercepts_ = weights[0::2], weights[1::2]
        del self._model._optimizer
        if network.output == "softmax" and outputs == 2:
            self._model._label_binarizer = _OneHot(2)

    def run(self, epochs: int) -> None:
        for _ in range(epochs):
            self._model.partial_fit(self._x, self._y)

    def weights(self) -> list[np.ndarray]:
        pairs = zip(self._model.coefs_, self._model.intercepts_, strict=True)
        return [array for pair in pairs for array in pair]


class Keras:
    """Keras 3 through ``Model.fit`` with ``jit_compile``, on JAX where it is installed, else on PyTorch.

    Whole epochs between its own bookkeeping (``steps_per_execution``): on tiny, tab and mnist 2.0, 2.2 and 1.5 times as
    fast as without.
    """

    def __init__(
        self, network: Network, optimizer: str, x: np.ndarray, y: np.ndarray, threads: int, dtype: str
    ) -> None:
        os.environ.setdefault("KERAS_BACKEND", "jax" if find_spec("jax") else "torch")
        import keras

        keras.config.set_dtype_policy("mixed_bfloat16" if dtype == "bfloat16" else dtype)
        layers = [keras.layers.Dense(width, activation=network.hidden) for width in network.widths[1:-1]]
        layers.append(keras.layers.Dense(network.widths[-1]))
        # The products are in bfloat16; the loss is not.
        layers.append(keras.layers.Activation("linear", dtype=STORED[dtype]))
        self._model = keras.Sequential([keras.Input((network.widths[0],)), *layers])
        self._model.set_weights(network.weights())
        loss = {
            "softmax": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "sigmoid": keras.losses.BinaryCrossentropy(from_logits=True),
            "linear": keras.losses.MeanSquaredError(),
        }[network.output]
        rule = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[optimizer](**SETTINGS[optimizer])
        self._model.compile(rule, loss, jit_compile=True, steps_per_execution=network.steps)
        self._fit = {"x": x, "y": y, "batch_size": network.batch, "shuffle": False, "verbose": 0}

    def run(self, epochs: int) -> None:
        self._model.fit(**self._fit, epochs=epochs)

    def weights(self) -> list[np.ndarray]:
        return [np.asarray(w) for w in self._model.get_weights()]


CONTESTANTS: dict[str, Factory] = {
    "fastbp": Fastbp,
    "jax": Jax,
    "torch": TorchEager,
    "torch.compile": TorchCompile,
    "scikit-learn": ScikitLearn,
    "keras": Keras,
}
PACKAGES = {
    "fastbp": ("fastbp", "numba"),
    "jax": ("jax", "jaxlib"),
    "torch": ("torch",),
    "torch.compile": ("torch",),
    "scikit-learn": ("scikit-learn", "scipy"),
    "keras": ("keras",),
}

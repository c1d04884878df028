"""Floor 4: `Model` owns the layers, the engine and the optimizer's state, and speaks Keras' words."""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbp import data, losses, metrics, optimizers, storage
from fastbp._checks import DTYPES, whole
from fastbp._jit import default_threads
from fastbp.callbacks import Callback, CallbackList
from fastbp.compilation import compile_kernels
from fastbp.cpu.engine import EVALUATION_ROWS, Engine, Objective, aligned
from fastbp.data import Sample
from fastbp.feeds import ArrayFeed
from fastbp.fit import DivergenceError, Fit, Settings, evaluated, held_rows
from fastbp.history import History
from fastbp.layers import Dense, Input
from fastbp.losses import Loss
from fastbp.metrics import Metric
from fastbp.optimizers import Optimizer
from fastbp.program import LayerSpec
from fastbp.progress import resolve_verbose

Array = NDArray[Any]


class Model:
    """A multilayer perceptron that trains in compiled kernels.

    Parameters
    ----------
    layers : `Dense` layers, first to last; an `Input` may stand before them
    dtype : "float32" (default), "float64", or "bfloat16": products of bfloat16 numbers, summed in float32; the
        weights, the optimizer's state and everything else stay float32 (Keras' "mixed_bfloat16")
    seed : of the initial weights and the shuffles; the same seed gives the same bits for any number of threads
    threads : most threads to use; by default those the process may have (affinity, cgroup quota, OMP_NUM_THREADS)
    name : shown in the summary

    Attributes
    ----------
    layers : the layers
    history : `History` of the last fit, None before
    dtype : of weights, inputs and outputs: float32, unless "float64" was asked for
    compute_dtype : name of the type that products are computed in: what was asked for
    stop_training : a callback sets it to end the fit after the running batch or epoch
    meta : dict of plain data stored in the model file, for whoever uses the model
    built : whether the weights exist

    Examples
    --------
    >>> import fastbp as fb
    >>> model = fb.Model([fb.Dense(256, activation="relu"), fb.Dense(10, activation="softmax")])
    >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    >>> history = model.fit(x, y, epochs=5)  # doctest: +SKIP
    """

    def __init__(
        self,
        layers: Iterable[Dense | Input] = (),
        *,
        dtype: str = "float32",
        seed: int = 0,
        threads: int | None = None,
        name: str = "model",
    ) -> None:
        dtype = getattr(dtype, "__name__", str(dtype))  # np.float32 is a name too
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be {', '.join(map(repr, DTYPES[:-1]))} or {DTYPES[-1]!r}, got {dtype!r}")
        if threads is not None:
            whole("threads", threads)
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
            raise ValueError(f"seed must be a whole number from 0 to 2**63 - 1, got {seed!r}")
        self.compute_dtype = dtype
        self.dtype = np.dtype("float32" if dtype == "bfloat16" else dtype)
        self.seed, self.threads, self.name = int(seed), threads or default_threads(), name
        self.layers: list[Dense] = []
        self.history: History | None = None
        self.meta: dict[str, Any] = {}
        self.stop_training = False
        self._input: int | None = None
        self._engine: Engine | None = None
        self._optimizer: Optimizer | None = None
        self._loss: Loss | None = None
        self._loss_name = ""
        self._metric_requests: list[str] = []
        self._updates = self._epochs_seen = 0
        for layer in layers:
            self.add(layer)

    # -------------------------------------------------- structure

    def add(self, layer: Dense | Input) -> None:
        """Append a layer (before the model is built)."""
        if self.built:
            raise RuntimeError("add: the model is built already; add all layers before build, fit or set_weights")
        if isinstance(layer, Input):
            if self.layers or self._input is not None:
                raise ValueError("add: an Input stands once, before all other layers")
            self._input = layer.width
            return
        if not isinstance(layer, Dense):
            raise TypeError(f"add: wanted a layer such as fb.Dense(10), got {layer!r}")
        if self.layers and self.layers[-1].activation.coupled:
            raise ValueError("add: softmax couples the outputs of a row and may stand in the last layer only")
        if layer.input_dim is not None:
            before = self.layers[-1].units if self.layers else self._input
            if before not in (None, layer.input_dim):
                raise ValueError(f"add: {layer!r} takes {layer.input_dim} inputs, what stands before it gives {before}")
            self._input = self._input if self.layers else layer.input_dim
        self.layers.append(layer)

    @property
    def built(self) -> bool:
        """Whether the weights exist."""
        return self._engine is not None

    @property
    def input_width(self) -> int | None:
        """I of the first layer; None until it is known."""
        return self._input

    @property
    def output_width(self) -> int:
        """O of the last layer."""
        if not self.layers:
            raise RuntimeError("the model has no layers: add some, for example model.add(fb.Dense(1))")
        return self.layers[-1].units

    def build(self, input_width: int | None = None) -> None:
        """Make the weights for inputs of `input_width` columns (by default what the first layer says)."""
        width = self._input if input_width is None else whole("input_width", input_width)
        self.output_width  # noqa: B018 (refuses a model without layers)
        if width is None:
            raise RuntimeError(
                "the input width isn't known yet: call build(width) or fit, or give input_dim to the first layer"
            )
        if self._input is not None and width != self._input:
            raise ValueError(f"the first layer takes {self._input} columns, got data with {width}")
        if self.built:
            return
        self._input = width
        specs, arrays = [], []
        for index, layer in enumerate(self.layers):
            specs.append(LayerSpec(width, layer.units, layer.use_bias, layer.activation))
            rng = np.random.Generator(np.random.Philox(key=[self.seed, index]))
            arrays += layer.initial(rng, width)
            width = layer.units
        engine = Engine(specs, self.dtype, self.threads, half=self.compute_dtype == "bfloat16")
        engine.program.put(engine.weights, arrays)
        self._engine = engine
        self._reset_optimizer()

    def _reset_optimizer(self) -> None:
        self._updates = 0
        if self._engine is not None and self._optimizer is not None:
            self._engine.reserve_moments(self._optimizer)

    def compile(
        self, optimizer: str | Optimizer = "adam", loss: str | Loss | None = None, metrics: Sequence[str] | None = None
    ) -> None:
        """Choose how to train.

        Parameters
        ----------
        optimizer : a name (see ``fb.optimizers.OPTIMIZERS``) or an object such as ``fb.SGD(0.01, momentum=0.9)``
        loss : a name (see ``fb.losses.LOSSES``) or an object such as ``fb.Huber(delta=2.0)``
        metrics : names: "accuracy", "mse", "mae" ...

        Raises
        ------
        ValueError : unknown names (the message lists the valid ones), or a loss that the last layer doesn't suit
        """
        if loss is None:
            raise ValueError('compile: name a loss, for example loss="sparse_categorical_crossentropy" or loss="mse"')
        row = losses.get(loss)
        if self.layers:
            losses.check_output(row, self.layers[-1].activation.name)
        requests = [metrics] if isinstance(metrics, str) else list(metrics or ())
        for request in requests:
            _metric(request, row, 2)
        self._optimizer, self._loss = optimizers.get(optimizer), row
        self._loss_name = loss if isinstance(loss, str) else row.name
        self._metric_requests = requests
        self._reset_optimizer()

    def _compiled(self, task: str) -> tuple[Engine, Loss, Optimizer]:
        if self._loss is None or self._optimizer is None:
            raise RuntimeError(
                f'{task}: the model isn\'t compiled; call model.compile(optimizer="adam", loss=...) first'
            )
        if self._engine is None:
            raise RuntimeError(f"{task}: the model isn't built; call model.build(width) or fit first")
        losses.check_output(self._loss, self.layers[-1].activation.name)
        return self._engine, self._loss, self._optimizer

    @property
    def loss_name(self) -> str:
        """The loss as `compile` was given it, "" before."""
        return self._loss_name

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer that `compile` was given."""
        return self._optimizer

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step; setting it keeps the optimizer's state, and a schedule can't be set."""
        if self._optimizer is None:
            raise RuntimeError("learning_rate: the model isn't compiled; call model.compile first")
        return self._optimizer.rate(self._updates)

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self.learning_rate  # noqa: B018 (refuses a model that isn't compiled)
        assert self._optimizer is not None
        if callable(self._optimizer.learning_rate):
            raise TypeError(
                f"learning_rate: the optimizer follows {self._optimizer.learning_rate!r}, so its rate can't be set; "
                "compile with a number to set it, by a callback or by hand"
            )
        self._optimizer = dataclasses.replace(self._optimizer, learning_rate=rate)

    @property
    def metrics_names(self) -> list[str]:
        """What `evaluate` returns, in order: "loss" and the metrics."""
        return ["loss", *self._metric_requests]

    def _objective(self) -> Objective:
        assert self._loss is not None
        rows = tuple(_metric(request, self._loss, self.output_width) for request in self._metric_requests)
        return Objective(self._loss, rows)

    # -------------------------------------------------- data

    def _staged(self, x: Any, y: Any, names: tuple[str, str] = ("x", "y")) -> tuple[Array, Array]:
        assert self._loss is not None
        rows = data.as_matrix(x, self.dtype, name=names[0], width=self._input)
        targets = data.as_targets(y, self._loss.targets, self.output_width, self.dtype, rows=len(rows), name=names[1])
        self.build(rows.shape[1])
        return rows, targets

    def _inputs(self, x: Any, task: str) -> Array:
        if self._engine is None and self._input is None and not self.layers:
            raise RuntimeError(f"{task}: the model has no layers")
        rows = data.as_matrix(x, self.dtype, width=self._input)
        self.build(rows.shape[1])
        return rows

    def _ready(self, objective: Objective, backward: bool, optimizer: Optimizer | None, shown: bool) -> Engine:
        """The engine, its kernels compiled; says so where someone watches."""
        assert self._engine is not None
        needed = self._engine.kernels(objective, backward, optimizer)
        if not all(kernel.ready for _, kernel in needed):
            compile_kernels(needed, shown or sys.stderr.isatty())
        return self._engine

    # -------------------------------------------------- training

    def fit(
        self,
        x: ArrayLike,
        y: ArrayLike,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Callback | Iterable[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: tuple[ArrayLike, ArrayLike] | None = None,
        shuffle: bool = True,
        *,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Iterable[int] = 1,
        max_time: float | None = None,
        on_interrupt: str = "raise",
    ) -> History:
        """Train for `epochs` passes over the data.

        Parameters
        ----------
        x : (N, I) numbers: array, list or DataFrame
        y : targets: (N, O) or (N,) numbers, or (N,) class numbers for the sparse loss
        batch_size : rows of a step, default 32; at most N
        epochs : number of the last epoch, default 1
        verbose : 0 silent, 1 a progress bar, 2 a line an epoch, "auto" a bar where someone watches, else lines
        callbacks : one or several of ``fb.callbacks``, called in the order given
        validation_split : share of the rows, the last ones, kept for validation
        validation_data : (x, y) for validation instead
        shuffle : whether each epoch has its own order of the rows, named by the model's seed
        initial_epoch : epochs done before, from which the numbers go on, default 0
        steps_per_epoch : steps that make an epoch; by default one pass over the data
        validation_steps : batches of the validation data to use, from its beginning; by default all
        validation_batch_size : rows of a step of the validation; speed depends on it, values only in their last digits
        validation_freq : epochs between validations, or the numbers (from 1) of the epochs that end with one
        max_time : seconds after which the fit ends; the epoch that runs is reported as far as it came
        on_interrupt : what follows Ctrl-C: "raise" the KeyboardInterrupt, or "return" the history

        Returns
        -------
        History

        Raises
        ------
        TypeError, ValueError : data or options that don't fit, before any kernel runs
        DivergenceError : the loss became NaN or infinite
        KeyboardInterrupt : passed on; what was learned stays, ``model.history.interrupted`` is True
        """
        batch = 32 if batch_size is None else whole("batch_size", batch_size)
        settings = Settings(
            whole("epochs", epochs), initial_epoch, resolve_verbose(verbose), max_time, on_interrupt
        ).checked()
        held_options = held_rows(batch, validation_steps, validation_batch_size, validation_freq)
        if self._loss is None:
            self._compiled("fit")
        rows, targets = self._staged(x, y)
        validation: Sample | None = None
        if validation_data is not None:
            vx, vy = data.as_pair(validation_data, "validation_data")
            validation = Sample(*self._staged(vx, vy, ("validation x", "validation y")))
        elif validation_split:
            rows, targets, *parts = data.train_validation_split(rows, targets, validation_split)
            validation = Sample(*parts)
        _, _, optimizer = self._compiled("fit")
        feed = ArrayFeed(
            Sample(rows, targets),
            batch=batch,
            shuffle=bool(shuffle),
            seed=self.seed,
            first_pass=self._epochs_seen,
            steps=None if steps_per_epoch is None else whole("steps_per_epoch", steps_per_epoch),
        )
        held = None if validation is None else held_options(validation)
        engine = self._ready(self._objective(), True, optimizer, bool(verbose))
        return Fit(self, engine, feed, settings, held, callbacks).run()

    def train_on_batch(self, x: ArrayLike, y: ArrayLike) -> float | list[float]:
        """One step over the rows given; returns the loss before it, or [loss, *metrics]."""
        rows, targets = self._ready_batch(x, y, "train_on_batch")
        engine, _, optimizer = self._compiled("train_on_batch")
        self._ready(self._objective(), True, optimizer, False)
        outcome = engine.run(
            rows, targets, batch=len(rows), objective=self._objective(), optimizer=optimizer, updates=self._updates
        ).completed()
        if outcome.diverged:
            raise DivergenceError(1, 1, "the loss", optimizer.rate(self._updates))
        self._updates += 1
        return self._values(outcome.sums[0], len(rows))

    def _ready_batch(self, x: Any, y: Any, task: str) -> tuple[Array, Array]:
        if self._loss is None:
            self._compiled(task)
        return self._staged(x, y)

    def gradients(self, x: ArrayLike, y: ArrayLike, inputs: bool = False) -> Any:
        """Gradient of the loss over the rows given, for a training loop of one's own.

        Parameters
        ----------
        x, y : as for `fit`
        inputs : whether to return the inputs' gradient too

        Returns
        -------
        list of arrays in the order and shapes of `get_weights`; with ``inputs=True`` a pair of it and dx (N, I)
        """
        rows, targets = self._ready_batch(x, y, "gradients")
        engine, loss, _ = self._compiled("gradients")
        objective = Objective(loss)
        self._ready(objective, True, None, False)
        flat = aligned(engine.program.parameter_bytes).view(self.dtype)
        dx = np.empty_like(rows) if inputs else None
        outcome = engine.run(rows, targets, batch=len(rows), objective=objective, gradient=flat, result=dx).completed()
        if outcome.diverged:
            raise FloatingPointError(
                "gradients: the loss of these rows is NaN or infinite, so it has no gradient; look for huge inputs, "
                "targets or weights"
            )
        arrays = engine.program.take(flat)
        return (arrays, dx) if inputs else arrays

    def apply_gradients(self, gradients: Sequence[ArrayLike]) -> None:
        """One update of the optimizer from gradients in the order and shapes of `get_weights`."""
        engine, _, optimizer = self._compiled("apply_gradients")
        flat = aligned(engine.program.parameter_bytes).view(self.dtype)
        engine.program.put(flat, self._checked_arrays(gradients, "apply_gradients"))
        self._ready(Objective(), True, optimizer, False)
        engine.apply(optimizer, flat, self._updates)
        self._updates += 1

    # -------------------------------------------------- evaluation

    def _values(self, sums: Array, rows: int) -> float | list[float]:
        values: list[float] = self._means(sums, rows).tolist()
        return values if len(values) > 1 else values[0]

    def _means(self, sums: Array, rows: int) -> Array:
        """What is reported of sums over rows, (..., 1 + metrics): the loss and the metrics."""
        assert self._loss is not None
        means = sums / rows
        if not self._loss.mean_rows:
            means[..., 0] = sums[..., 0]
        return means

    def evaluate(
        self,
        x: ArrayLike,
        y: ArrayLike,
        batch_size: int | None = None,
        verbose: str | int = 0,
        *,
        callbacks: Callback | Iterable[Callback] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """Loss and metrics over the data: a number, [loss, *metrics], or with ``return_dict`` a dict by name."""
        rows, targets = self._ready_batch(x, y, "evaluate")
        self._compiled("evaluate")
        batch = EVALUATION_ROWS if batch_size is None else whole("batch_size", batch_size)
        watching = CallbackList(callbacks, self, epochs=1, steps=-(-len(rows) // batch), metrics=self.metrics_names)
        sums = evaluated(self, Sample(rows, targets), batch, watching)
        values = self._means(sums[0], len(rows)).tolist()
        named = dict(zip(self.metrics_names, values, strict=True))
        if resolve_verbose(verbose):
            print("  ".join(f"{name} {value:.4g}" for name, value in named.items()), file=sys.stderr)
        if return_dict:
            return named
        return values if len(values) > 1 else values[0]

    def predict(self, x: ArrayLike, batch_size: int | None = None, verbose: str | int = 0) -> Array:
        """Outputs (N, O) of the model's dtype; a row's are the same bits whatever rows are around it."""
        resolve_verbose(verbose)
        rows = self._inputs(x, "predict")
        batch = EVALUATION_ROWS if batch_size is None else whole("batch_size", batch_size)
        engine = self._ready(Objective(), False, None, False)
        result = np.empty((len(rows), self.output_width), self.dtype)
        engine.run(rows, batch=batch, result=result).completed()
        return result

    # -------------------------------------------------- weights

    def get_weights(self) -> list[Array]:
        """Kernels (I, O) and biases (O,), layer by layer, copied."""
        self.build()
        assert self._engine is not None
        return self._engine.program.take(self._engine.weights)

    def set_weights(self, weights: Sequence[ArrayLike]) -> None:
        """Put kernels (I, O) and biases (O,), in the order of `get_weights`."""
        self.build(np.shape(weights[0])[0] if not self.built and len(weights) and np.ndim(weights[0]) else None)
        assert self._engine is not None
        self._engine.program.put(self._engine.weights, self._checked_arrays(weights, "set_weights"))

    def _checked_arrays(self, arrays: Sequence[ArrayLike], task: str) -> list[Array]:
        assert self._engine is not None
        wanted = self._shapes()
        given = [np.asarray(array) for array in arrays]
        if len(given) != len(wanted):
            raise ValueError(f"{task}: wanted {len(wanted)} arrays ({wanted}), got {len(given)}")
        limit = float(np.finfo(self.dtype).max)
        for index, (array, shape) in enumerate(zip(given, wanted, strict=True)):
            if array.shape != shape:
                raise ValueError(f"{task}: array {index} must have the shape {shape}, got {array.shape}")
            if array.dtype.kind not in "fiub":
                raise TypeError(f"{task}: array {index} must hold numbers, got dtype {array.dtype}")
            if not -limit <= float(array.min()) <= float(array.max()) <= limit:  # without a copy; NaN is refused too
                raise ValueError(f"{task}: array {index} holds NaN, infinity or numbers beyond {limit:.2g}")
        return given

    def _shapes(self) -> list[tuple[int, ...]]:
        assert self._engine is not None
        shapes: list[tuple[int, ...]] = []
        for layer in self._engine.program.layers:
            shapes.append((layer.fan_in, layer.fan_out))
            if layer.bias:
                shapes.append((layer.fan_out,))
        return shapes

    def count_params(self) -> int:
        """P, the number of weights and biases."""
        self.build()
        assert self._engine is not None
        return self._engine.program.parameter_count

    @property
    def flops_per_sample(self) -> int:
        """Floating-point operations to train on one row: forward, backward and gradient products."""
        self.build()
        assert self._engine is not None
        return self._engine.program.flops_per_row

    def summary(self, print_fn: Callable[[str], None] = print) -> None:
        """Print the layers with their shapes, parameters, bytes and floating-point operations per sample."""
        self.build()
        assert self._engine is not None
        size = self.dtype.itemsize
        rows = [("layer", "activation", "outputs", "parameters", "bytes", "FLOP/sample")]
        specs = self._engine.program.layers
        for name, layer in zip(self._names(), specs, strict=True):
            count, flops = layer.parameters, 2 * layer.fan_in * layer.fan_out * (2 if layer is specs[0] else 3)
            numbers = (f"{layer.fan_out:,}", f"{count:,}", f"{count * size:,}", f"{flops:,}")
            rows.append((name, layer.activation.name, *numbers))
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        lines = [
            "  ".join(
                cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        count = self.count_params()
        print_fn(f"{self.name}: {self._input} inputs, {self.compute_dtype}, {self.threads} threads")
        for line in (lines[0], "-" * len(lines[0]), *lines[1:], "-" * len(lines[0])):
            print_fn(line.rstrip())
        print_fn(f"{count:,} parameters, {count * size:,} bytes, {self.flops_per_sample:,} FLOP to train on one sample")

    def _names(self) -> list[str]:
        names: list[str] = []
        for layer in self.layers:
            base = name = layer.name or "dense"
            number = 0
            while name in names:
                number += 1
                name = f"{base}_{number}"
            names.append(name)
        return names

    def _labels(self) -> list[str]:
        return [
            f"{name}.{part}"
            for name, layer in zip(self._names(), self.layers, strict=True)
            for part in (("kernel", "bias") if layer.use_bias else ("kernel",))
        ]

    def named_weights(self) -> dict[str, Array]:
        """The arrays of `get_weights` by the names they have in files: ``<layer>.kernel``, ``<layer>.bias``."""
        return dict(zip(self._labels(), self.get_weights(), strict=True))

    # -------------------------------------------------- files

    def _state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """(tensors, plain data) of the whole model."""
        tensors = self.named_weights()
        labels = list(tensors)
        assert self._engine is not None
        for slot, moment in enumerate(self._engine.moments(), start=1):
            arrays = self._engine.program.take(moment)
            tensors |= {f"optimizer.{slot}.{label}": array for label, array in zip(labels, arrays, strict=True)}
        loss = self._loss
        content = {
            "layers": [
                {**layer.config(), "name": name} for layer, name in zip(self.layers, self._names(), strict=True)
            ],
            "input_width": self._input,
            "dtype": self.compute_dtype,
            "seed": self.seed,
            "name": self.name,
            "optimizer": self._optimizer.config(self._updates) if self._optimizer else None,
            "loss": {"name": loss.name, "parameter": loss.parameter, "from_logits": loss.from_logits} if loss else None,
            "metrics": self._metric_requests,
            "updates": self._updates,
            "epochs": self._epochs_seen,
            "meta": self.meta,
        }
        return tensors, content

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write network, weights and optimizer state to a file in the safetensors layout, atomically.

        Tensors are named ``<layer>.kernel`` (I, O), ``<layer>.bias`` (O,) and ``optimizer.<slot>.<layer>.kernel`` ...;
        everything else is JSON in the file's metadata. Nothing in the file can run code.
        """
        storage.write(path, *self._state())

    def save_weights(self, path: str | os.PathLike[str]) -> None:
        """Write the weights alone, without network and optimizer, as `save` writes them; `load_weights` reads them."""
        storage.write(path, self.named_weights(), {"weights": self._labels()})

    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Put the weights of a file that `save_weights` or `save` wrote into this network of the same shape.

        Raises
        ------
        ValueError : a file of another kind, or weights of another network
        """
        tensors, _ = storage.read(path)
        given = {name: array for name, array in tensors.items() if not name.startswith("optimizer.")}
        first = next((array for name, array in given.items() if name.endswith(".kernel")), None)
        if not self.built and first is not None:
            self.build(self._input or len(first))
        labels = self._labels()
        if sorted(given) != sorted(labels):
            raise ValueError(f"{os.fspath(path)} holds the weights {sorted(given)}; this network has {labels}")
        self.set_weights([given[label] for label in labels])

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, threads: int | None = None) -> "Model":
        """The model that `save` wrote.

        Raises
        ------
        ValueError : a truncated, foreign or newer file
        """
        if threads is not None:
            whole("threads", threads)
        tensors, content = storage.read(path)
        try:
            return cls._restored(tensors, content, threads)
        except (KeyError, MemoryError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} doesn't hold a model that this version can read: {error}") from error

    @classmethod
    def _restored(cls, tensors: dict[str, Array], content: dict[str, Any], threads: int | None) -> "Model":
        model = cls(dtype=content["dtype"], seed=content["seed"], threads=threads, name=content["name"])
        for config in content["layers"]:
            model.add(Dense.from_config(config))
        if content["optimizer"] is not None:
            model._optimizer = optimizers.from_config(content["optimizer"])
        if content["loss"] is not None:
            model._loss = losses.from_config(content["loss"])
            model._loss_name = model._loss.name
        model._metric_requests = [str(request) for request in content["metrics"]]
        model.build(content["input_width"])
        assert model._engine is not None
        ordered = model._labels()
        slots = range(1, 1 + len(model._engine.moments()))
        labels = [*ordered, *(f"optimizer.{slot}.{label}" for slot in slots for label in ordered)]
        if sorted(tensors) != sorted(labels):
            raise ValueError(f"wanted the tensors {labels}, got {sorted(tensors)}")
        model.set_weights([tensors[label] for label in ordered])
        for slot, moment in enumerate(model._engine.moments(), start=1):
            arrays = [tensors[f"optimizer.{slot}.{label}"] for label in ordered]
            model._engine.program.put(moment, model._checked_arrays(arrays, "load"))
        model._updates, model._epochs_seen = int(content["updates"]), int(content["epochs"])
        model.meta = dict(content["meta"])
        return model

    def _twin(self, task: str) -> "Model":
        """A model with buffers of its own, in the same state, for work that must leave this one alone."""
        if self._loss is None:
            self._compiled(task)
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.layers = list(self.layers)
        if self._engine is not None:
            twin._engine = self._engine.twin()
        return twin

    def __getstate__(self) -> dict[str, Any]:
        if self.layers and self._input is not None:
            return {"state": self._state(), "threads": self.threads, "history": self.history}
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "state" in state:
            tensors, content = state["state"]
            state = {**self._restored(tensors, content, state["threads"]).__dict__, "history": state["history"]}
        self.__dict__.update(state)

    def __repr__(self) -> str:
        shape = "-".join(str(n) for n in [self._input or "?", *(layer.units for layer in self.layers)])
        return f"Model({shape}, dtype={self.compute_dtype!r}, seed={self.seed}, threads={self.threads})"


Sequential = Model
"""Keras' name for a model whose layers follow one another."""


def load_model(path: str | os.PathLike[str], *, threads: int | None = None) -> Model:
    """The model that ``model.save(path)`` wrote."""
    return Model.load(path, threads=threads)


def _metric(request: str, loss: Loss, outputs: int) -> Metric:
    return metrics.get(request, loss, outputs)[1]

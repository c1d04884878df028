"""Floor 4: `Model` owns the layers, the engine and the optimizer's state, and speaks Keras' words."""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Never

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbp import devices, losses, optimizers
from fastbp._checks import flag, whole
from fastbp._jit import default_threads
from fastbp._spelling import answers, unknown_argument
from fastbp.callbacks import Callback, CallbackList
from fastbp.data import sparse, staging
from fastbp.data.frames import check_names, names_of
from fastbp.data.sources import opened
from fastbp.data.staging import Sample
from fastbp.exchange import model_files, storage
from fastbp.history import History
from fastbp.layers import Input, Layer
from fastbp.layout.objective import EVALUATION_ROWS, Objective
from fastbp.layout.stack import Stack
from fastbp.losses import Loss
from fastbp.optimizers import LBFGS, Optimizer
from fastbp.program import LayerSpec
from fastbp.reports import summary
from fastbp.reports.bars import watched
from fastbp.reports.gradients import GradientReport, gradient_report
from fastbp.reports.progress import resolve_verbose, shown
from fastbp.training import full_batch, own_loop, partial, scoring, streaming
from fastbp.training.compilation import compile_kernels
from fastbp.training.fit import Fit, evaluated
from fastbp.training.options import Options, sources
from fastbp.training.scoring import Scoring

Array = NDArray[Any]
Own = Callable[[Any, Any], Any]
Metrics = Sequence[scoring.Request | Own] | scoring.Request | Own | None

PREDICTED_ROWS = 256  # of a step, for each thread: 4096 took small 2 times as long, tab 1.6 times, mnist 1.1 times


class Model(Stack):
    """A multilayer perceptron that trains in compiled kernels.

    Parameters
    ----------
    layers : layers such as `Dense`, first to last; an `Input` may stand before them
    dtype : "float32" (default), "float64", or "bfloat16": products of bfloat16 numbers, summed in float32; the
        weights, the optimizer's state and everything else stay float32 (Keras' "mixed_bfloat16")
    seed : of the initial weights and the shuffles; the same seed gives the same bits for any number of threads
    threads : most threads to use; by default those the process may have (affinity, cgroup quota, OMP_NUM_THREADS)
    device : "cpu" (default), "cuda" for an NVIDIA GPU, or "auto": the GPU where there is one and the network is large
    precision : "tf32" or "bfloat16": what factors of products are rounded to, for tensor cores; "bfloat16" is the dtype
    name : shown in the summary

    Attributes
    ----------
    layers : the layers
    history : `History` of the last fit, None before
    dtype : of weights, inputs and outputs: float32, unless "float64" was asked for
    compute_dtype : name of the type that products are computed in: what was asked for
    device : where it trains; "auto" until it is built
    stop_training : a callback sets it to end the fit after the running batch or epoch
    meta : dict of plain data stored in the model file, for whoever uses the model
    column_names : of the frame that it was fitted to, kept in the model file; frames of others are refused. None: of
        arrays, or whatever a frame's are called
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
        layers: Iterable[Layer | Input] = (),
        *,
        dtype: str = "float32",
        seed: int = 0,
        threads: int | None = None,
        device: str = "cpu",
        precision: str | None = None,
        name: str = "model",
    ) -> None:
        dtype = getattr(dtype, "__name__", str(dtype))  # np.float32 is a name too
        if threads is not None:
            whole("threads", threads)
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
            raise ValueError(f"seed must be a whole number from 0 to 2**63 - 1, got {seed!r}")
        self.compute_dtype, self.device = devices.checked(device, dtype, precision)
        self.dtype = np.dtype("float64" if dtype == "float64" else "float32")
        self.seed, self.threads, self.name = int(seed), threads or default_threads(), name
        self.history: History | None = None
        self.meta: dict[str, Any] = {}
        self.column_names: list[str] | None = None
        self._device_reason, self.stop_training = "", False
        self._engine: devices.Engine | None = None
        self._optimizer: Optimizer | None = None
        self._loss: Loss | None = None
        self._loss_name = ""
        self._metric_requests: list[scoring.Request] = []
        self._weighted_requests: list[scoring.Request] = []
        self._updates = self._epochs_seen = self._draws = 0
        super().__init__(layers)

    # -------------------------------------------------- structure

    @property
    def built(self) -> bool:
        """Whether the weights exist."""
        return self._engine is not None

    def build(self, input_width: int | None = None) -> None:
        """Make the weights for inputs of `input_width` columns (by default what the first layer says)."""
        width = self._input if input_width is None else whole("input_width", input_width)
        if not self.layers:
            self.output_width  # noqa: B018 (refuses a model without layers)
        if width is None:
            raise RuntimeError(
                "the input width isn't known yet: call build(width) or fit, or give input_dim to the first layer"
            )
        if self._input is not None and width != self._input:
            raise ValueError(f"the first layer takes {self._input} columns, got data with {width}")
        if self.built:
            return
        summary.check_build(self, width)
        specs, arrays = self._network(width).specs, self._drawn(width, self.seed)
        self._input = width
        engine = devices.engine(self, specs)
        engine.program.put(engine.weights, arrays)
        self._engine = engine
        self._reset_optimizer()

    def _reset_optimizer(self) -> None:
        self._updates = 0
        if self._engine is not None and self._optimizer is not None:
            self._engine.reserve_moments(self._optimizer)

    def compile(
        self,
        optimizer: str | Optimizer = "adam",
        loss: str | Loss | Own | None = None,
        metrics: Metrics = None,
        weighted_metrics: Metrics = None,
        *,
        mask_nan: bool = False,
    ) -> None:
        """Choose how to train.

        Parameters
        ----------
        optimizer : a name (see ``fb.optimizers.OPTIMIZERS``) or an object such as ``fb.SGD(0.01, momentum=0.9)``
        loss : a name (see ``fb.losses.LOSSES``), an object such as ``fb.Huber(delta=2.0)``, or a function of one's own,
            f(y_true, y_pred) (see ``fb.losses.custom``); a metric may be one too
        metrics : names ("accuracy", "precision", "auc", "mse" ..., see ``fb.metrics.METRICS``) or objects such as
            ``fb.metrics.Precision(0.3)``; each row counts 1, whatever the sample weights
        weighted_metrics : the same, each row counting its sample weight
        mask_nan : whether targets may be NaN, which leaves them out: no loss, no gradient, and their rows count in no
            metric. The loss is still divided by all rows and outputs, as with a sample weight of 0

        Raises
        ------
        ValueError : unknown names (the message lists the valid ones), or a loss that the last layer doesn't suit
        """
        if loss is None:
            raise ValueError('compile: name a loss, for example loss="sparse_categorical_crossentropy" or loss="mse"')
        row = losses.get(loss)
        if self.layers:
            losses.check_output(row, self.layers[-1].activation.name)
        requests, by_weight = scoring.requests(metrics), scoring.requests(weighted_metrics)
        self._optimizer = optimizers.get(optimizer)
        self._loss = dataclasses.replace(row, mask_nan=flag("mask_nan", mask_nan))
        self._loss_name = loss if isinstance(loss, str) else row.name
        self._metric_requests, self._weighted_requests = requests, by_weight
        self._reset_optimizer()

    def _compiled(self, task: str) -> tuple["devices.Engine", Loss, Optimizer]:
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
        """What `evaluate` returns, in order: "loss", the metrics, the weighted metrics ("weighted_..." of both)."""
        return scoring.names(self._metric_requests, self._weighted_requests)

    def _scoring(self) -> Scoring:
        """The loss and the metrics, and the values made of their sums."""
        assert self._loss is not None
        return Scoring(self._loss, self._metric_requests, self._weighted_requests, self.output_width)

    # -------------------------------------------------- data

    def _sample(
        self,
        x: Any,
        y: Any,
        weights: Any = None,
        *,
        names: tuple[str, str, str] = ("x", "y", "sample_weight"),
        task: str = "fit",
    ) -> Sample:
        """The rows that a user gave, checked for the kernels; builds the model where that is still to be done."""
        if self._loss is None:
            self._compiled(task)
        assert self._loss is not None
        loss, columns = self._loss, names_of(x)
        check_names(self.column_names, columns, names[0])
        rows = staging.as_matrix(x, self.dtype, name=names[0], width=self._input, device=self.device)
        width, count = self.output_width, len(rows)
        self.check_inputs(rows, self.compute_dtype, names[0])
        place = devices.place(self, rows.shape[1])
        options: dict[str, Any] = {"rows": count, "name": names[1], "missing": loss.mask_nan}
        targets = devices.targets(y, loss.targets, width, self.dtype, place, **options)
        weights = None if weights is None else devices.row_weights(weights, count, self.dtype, place, names[2])
        self.build(rows.shape[1])
        if task in ("fit", "train_on_batch"):
            self.column_names = self.column_names or columns
        return Sample(devices.seen(rows, names[0], self.device, x), targets, weights=weights)

    def _inputs(self, x: Any, task: str, finite: bool = True) -> Array | sparse.SparseRows:
        if self._engine is None and self._input is None and not self.layers:
            raise RuntimeError(f"{task}: the model has no layers")
        check_names(self.column_names, names_of(x))
        rows = staging.as_matrix(x, self.dtype, width=self._input, finite=finite, device=self.device)
        if finite or isinstance(rows, sparse.SparseRows):  # else the kernels look, and whoever calls asks again
            self.check_inputs(rows, self.compute_dtype)
        self.build(rows.shape[1])
        return devices.seen(rows, "x", self.device, x) if finite or self.device == "cpu" else rows

    def _ready(
        self,
        objective: Objective,
        backward: bool,
        optimizer: Optimizer | None,
        shown: bool,
        batch: int,
        layers: Sequence[LayerSpec] = (),
    ) -> "devices.Engine":
        """The engine, its kernels compiled; says so where someone watches."""
        assert self._engine is not None and self._input is not None
        self._engine.describe(self._network(self._input).specs)
        if isinstance(optimizer, LBFGS):
            raise ValueError("LBFGS looks at all rows in every step: only fit can use it; compile another optimizer")
        self._engine.shown = shown
        needed = self._engine.kernels(objective, backward, optimizer, batch, layers)
        if not all(kernel.ready for _, kernel in needed):
            compile_kernels(needed, shown or watched())
        return self._engine

    # -------------------------------------------------- training

    def fit(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Callback | Iterable[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Any = None,
        sample_weight: ArrayLike | None = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Iterable[int] = 1,
        *,
        stratify: bool = False,
        max_time: float | None = None,
        on_interrupt: str = "raise",
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        resume: bool = False,
    ) -> History:
        """Train for `epochs` passes over the data.

        Parameters
        ----------
        x : (N, I) numbers: array, list or DataFrame; scipy's sparse rows, which stay sparse; or rows that needn't fit
            in memory (see Notes)
        y : targets: (N, O) or (N,) numbers, or (N,) class numbers for the sparse loss. With ``device="cuda"`` x, y and
            sample_weight on the GPU (CuPy, PyTorch) are taken where they are; strided ones through main memory
        batch_size : rows of a step, default 32; at most N. For batches from an iterator default each of them, as it is
        epochs : number of the last epoch, default 1
        verbose : 0 silent, 1 a progress bar, 2 a line an epoch, "auto" a bar where someone watches, else lines
        callbacks : one or several of ``fb.callbacks``, called in the order given
        validation_split : share of the rows, the last ones, kept for validation
        validation_data : (x, y) or (x, y, sample_weight) for validation instead
        shuffle : whether each epoch has its own order of the rows, named by the model's seed
        class_weight : dict of class number to weight, or "balanced" (N / (classes * rows of the class)); multiplies
            the rows' weights in training. "balanced" looks at all targets first, where x isn't in memory too
        sample_weight : (N,) numbers from 0 that multiply the rows' losses, which are still divided by the batch's rows,
            as in Keras; those of the rows held out weigh the validation's loss
        initial_epoch : epochs done before, from which the numbers go on, default 0
        steps_per_epoch : steps that make an epoch; by default one pass over the data
        validation_steps : batches of the validation data to use, from its beginning; by default all
        validation_batch_size : rows of a step of the validation; speed depends on it, values only in their last digits
        validation_freq : epochs between validations, or the numbers (from 1) of the epochs that end with one
        stratify : whether `validation_split` takes its share of each class, at random by the model's seed
        max_time : seconds after which the fit ends; the epoch that runs is reported as far as it came
        on_interrupt : what follows Ctrl-C: "raise" the KeyboardInterrupt, or "return" the history
        checkpoint : file that the fit is written to while it runs (the one before stays as "<file>.previous"), and
            when Ctrl-C or `max_time` ends it
        checkpoint_every : steps between checkpoints; by default the end of each epoch
        resume : go on from `checkpoint` to the same bits as if the fit had not been stopped, in the middle of an epoch
            too; data, network and options must be those that it was begun with, but `epochs` may be greater. Where
            there is no such file yet the fit begins

        Returns
        -------
        History

        Raises
        ------
        TypeError, ValueError : data or options that don't fit, or a checkpoint of another fit, before any kernel runs
        DivergenceError : the loss became NaN or infinite
        KeyboardInterrupt : passed on; what was learned stays, ``model.history.interrupted`` is True
        StreamError : batches that ended early or changed their width; what was learned from those before stays

        Notes
        -----
        A thread reads ahead while the kernels run; ``history.waiting`` is the share of the time that was lost to
        waiting all the same. x may be

        * the path of an .npy file or a folder of them, or a memory map, with y (and sample_weight) as an array, path
          or map beside it; or Parquet files, with the columns' names as y. They are read in blocks, in place where they
          are of the model's type. A shuffle is of chunks of 1 MB, and of the rows in each block of 32 MB; without one
          the bits are those of the same rows in an array
        * an iterator or generator of (x, y) or (x, y, sample_weight), of any numbers of rows, in its own order
        * a function that makes such an iterator for each epoch, a loader that can be iterated again, or what gives its
          batches by number, such as Keras' PyDataset

        An epoch is all that there is, or `steps_per_epoch`. To resume a fit over an iterator, what was read before is
        read again.
        """
        options = Options(
            batch_size=batch_size,
            epochs=epochs,
            verbose=verbose,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            class_weight=class_weight,
            sample_weight=sample_weight,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            validation_batch_size=validation_batch_size,
            validation_freq=validation_freq,
            stratify=stratify,
            max_time=max_time,
            on_interrupt=on_interrupt,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            resume=resume,
        )
        if isinstance(self._optimizer, LBFGS):
            return full_batch.fit(self, x, y, options, callbacks)
        feed, held = sources(self, x, y, options)
        _, _, optimizer = self._compiled("fit")
        engine = self._ready(self._scoring().objective, True, optimizer, bool(options.verbose), feed.batch)
        return Fit(self, engine, feed, options, held, callbacks).run()

    def train_on_batch(
        self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None, class_weight: Any = None
    ) -> float | list[float]:
        """One step over the rows given; returns the loss before it, or [loss, *metrics].

        x, y, sample_weight, class_weight : as for `fit`, arrays in memory
        """
        return own_loop.train(self, x, y, sample_weight, class_weight)

    def test_on_batch(self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float | list[float]:
        """The loss over the rows given, or [loss, *metrics]; the model stays as it is.

        x, y, sample_weight : as for `fit`, arrays in memory
        """
        sample = self._sample(x, y, sample_weight, task="test_on_batch")
        self._compiled("test_on_batch")
        return scoring.listed(evaluated(self, [sample], len(sample)))

    def gradients(
        self, x: ArrayLike, y: ArrayLike, inputs: bool = False, *, sample_weight: ArrayLike | None = None
    ) -> Any:
        """Gradient of the loss over the rows given, for a training loop of one's own.

        Parameters
        ----------
        x, y, sample_weight : as for `fit`
        inputs : whether to return the inputs' gradient too

        Returns
        -------
        list of arrays in the order and shapes of `get_weights`; with ``inputs=True`` a pair of it and dx (N, I)
        """
        return own_loop.gradients(self, x, y, inputs, sample_weight)

    def gradient_report(self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> GradientReport:
        """The norm of each layer's gradient over the rows given (x, y and sample_weight as for `fit`).

        Printed it is a table that names what vanishes or explodes.

        A layer is "vanishing" where the root mean square of its gradient is 0 or below 1/1000 of the largest layer's,
        "exploding" where its norm is above 100 times that of the layer's weights.
        """
        return gradient_report(self, x, y, sample_weight)

    def apply_gradients(self, gradients: Sequence[ArrayLike]) -> None:
        """One update of the optimizer from gradients in the order and shapes of `get_weights`."""
        own_loop.apply(self, gradients)

    # -------------------------------------------------- evaluation

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = 0,
        sample_weight: ArrayLike | None = None,
        steps: int | None = None,
        callbacks: Callback | Iterable[Callback] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """Loss and metrics over the data.

        Parameters
        ----------
        x, y, sample_weight, callbacks : as for `fit`
        batch_size : rows at once; speed depends on it, values only in their last digits
        verbose : 0 silent, else a line on stderr
        steps : batches to use, from the beginning; by default all
        return_dict : whether to return a dict by name

        Returns
        -------
        a number, [loss, *metrics], or a dict; a confusion matrix is an array
        """
        batch = EVALUATION_ROWS if batch_size is None else whole("batch_size", batch_size)
        steps = None if steps is None else whole("steps", steps)
        samples, count = streaming.evaluation(self, x, y, sample_weight, batch, steps)
        watching = CallbackList(callbacks, self, epochs=1, steps=count, metrics=self.metrics_names)
        values = evaluated(self, samples, batch, watching)
        if resolve_verbose(verbose):
            print("  ".join(shown(values)), file=sys.stderr)
        return dict(zip(values, scoring.plain(values.values()), strict=True)) if return_dict else scoring.listed(values)

    def predict(
        self,
        x: Any = None,
        batch_size: int | None = None,
        verbose: str | int = 0,
        *,
        upto: Layer | str | int | None = None,
        noise: bool = False,
        out: Array | str | None = None,
        **unknown: Never,
    ) -> Array:
        """Outputs of the model, or of one of its layers.

        Parameters
        ----------
        x : (N, I) numbers, or whatever `fit` takes (of an iterator's batches their x)
        batch_size : rows in flight at once, by default as many as are quickest
        verbose : 0 (default) is silent
        upto : the layer whose outputs are wanted (the layer, its name as in `summary`, or its number); default the last
        noise : whether Dropout and its kin draw as in training, each call anew, which makes repeated predictions
            samples (Gal and Ghahramani, "Dropout as a Bayesian approximation", 2016); batch normalisation keeps its
            moving statistics
        out : takes the outputs, a memory map's too, or (``device="cuda"``) an array on the GPU, of CuPy or PyTorch;
            "device": they stay there, in an array that these and JAX take as theirs (DLPack, CUDA's array interface)

        Returns
        -------
        (N, O) array of the model's dtype; without noise a row's are the same bits whatever rows are around it
        """
        if unknown:
            raise unknown_argument(self.predict, next(iter(unknown)), "Model.predict")
        if upto is not None or noise:
            return partial.predict(self, x, batch_size, upto, noise, out)
        if batch_size is None and out is None and verbose == 0 and type(x) is np.ndarray and self._engine is not None:
            served = self._engine.serve(x)
            if served is not None:
                return served
        resolve_verbose(verbose)
        batch = PREDICTED_ROWS * max(2, self.threads) if batch_size is None else whole("batch_size", batch_size)
        if (source := opened(x)) is not None:
            return streaming.predicted(self, source, batch, out)
        rows = self._inputs(x, "predict", finite=self._engine is None)
        engine = self._ready(Objective(), False, None, False, min(batch, len(rows)))
        result, unfit = streaming.outputs_for(self, len(rows), out), np.zeros(1, np.int64)
        engine.run(rows, batch=batch, result=result, unfit=unfit).completed()
        if unfit[0]:
            self._inputs(x, "predict")  # raises, and says where
        engine.open_server()
        return result if out is None or isinstance(out, str) else out

    def __call__(self, x: Any) -> Array:
        """The outputs, as `predict` gives them."""
        return self.predict(x)

    # -------------------------------------------------- weights

    def get_weights(self, *, out: str | None = None) -> list[Array]:
        """Kernels (I, O) and biases (O,), layer by layer, copied.

        ``out="device"`` (``device="cuda"``) gives them where they are, to be read by CuPy and PyTorch (DLPack, CUDA's
        array interface) without a copy; rows of a kernel may be apart. Their memory lives as long as they do, and `fit`
        goes on writing to it: copy what is to stay, and ask again after a training, `compile` or `set_weights`.
        """
        self.build()
        assert self._engine is not None
        return devices.weights(self._engine, out)

    def set_weights(self, weights: Sequence[ArrayLike]) -> None:
        """Put kernels (I, O) and biases (O,), in the order of `get_weights`; those on the model's GPU go straight."""
        self.build(None if self.built else self._width_by(weights))
        assert self._engine is not None
        if not devices.put_weights(self._engine, weights):
            self._engine.program.put(self._engine.weights, model_files.checked(self, weights, "set_weights"))

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

    def summary(self, print_fn: Callable[[str], None] = print, *, batch_size: int | None = None) -> None:
        """Print the layers with their shapes, parameters, bytes and floating-point operations per sample.

        A compiled model also says what a fit in batches of `batch_size` rows (default 32) takes of memory, by parts.
        """
        batch = 32 if batch_size is None else whole("batch_size", batch_size)
        self.build()
        for line in summary.lines(self, batch):
            print_fn(line)

    def named_weights(self) -> dict[str, Array]:
        """The arrays of `get_weights` by the names they have in files: ``<layer>.kernel``, ``<layer>.bias``."""
        return dict(zip(model_files.labels(self), self.get_weights(), strict=True))

    # -------------------------------------------------- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write network, weights and optimizer state to a file in the safetensors layout, atomically.

        Tensors are named ``<layer>.kernel`` (I, O), ``<layer>.bias`` (O,) and ``optimizer.<slot>.<layer>.kernel`` ...;
        everything else is JSON in the file's metadata. Nothing in the file can run code.
        """
        storage.write(path, *model_files.state(self))

    def save_weights(self, path: str | os.PathLike[str]) -> None:
        """Write the weights alone, without network and optimizer, as `save` writes them; `load_weights` reads them."""
        storage.write(path, self.named_weights(), {"weights": model_files.labels(self)})

    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Put the weights of a file that `save_weights` or `save` wrote into this network of the same shape.

        Raises
        ------
        ValueError : a file of another kind, or weights of another network
        """
        model_files.load_weights(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, threads: int | None = None, device: str = "cpu") -> "Model":
        """The model that `save` wrote, wherever it was trained, to go on on `device`.

        Raises
        ------
        ValueError : a truncated, foreign or newer file
        """
        if threads is not None:
            whole("threads", threads)
        devices.checked(device, "float32")  # what is wrong with the device isn't wrong with the file
        tensors, content = storage.read(path)
        try:
            empty = cls(**model_files.settings(content), threads=threads, device=device)
            return model_files.restored(empty, tensors, content)
        except (KeyError, MemoryError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} doesn't hold a model that this version can read: {error}") from error

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
            own = {"threads": self.threads, "device": self.device, "history": self.history}
            return {"state": model_files.state(self), **own}
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "state" in state:
            tensors, content = state["state"]
            own = {"threads": state["threads"], "device": devices.there(state["device"])}
            twin = model_files.restored(type(self)(**model_files.settings(content), **own), tensors, content)
            state = {**twin.__dict__, "history": state["history"]}
        self.__dict__.update(state)

    def _repr_html_(self) -> str:
        return summary.page(self)

    def __repr__(self) -> str:
        where = f"threads={self.threads}" if self.device == "cpu" else f"device={self.device!r}"
        return f"Model({self.widths()}, dtype={self.compute_dtype!r}, seed={self.seed}, {where})"


Sequential = Model
"""Keras' name for a model whose layers follow one another."""


def load_model(path: str | os.PathLike[str], *, threads: int | None = None, device: str = "cpu") -> Model:
    """The model that ``model.save(path)`` wrote.

    Parameters
    ----------
    path : the file
    threads : most threads to use; by default those the process may have
    device : where it goes on, whatever it was trained on: "cpu" (default), "cuda" or "auto"

    Raises
    ------
    FileNotFoundError, ValueError : no file, or a truncated, foreign or newer one
    """
    return Model.load(path, threads=threads, device=device)


answers(__name__, "load_model", methods="Model")

"""Floor 4: fit, evaluate and predict over rows that aren't all in memory."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbp import devices
from fastbp.data import device_arrays, preparation, staging
from fastbp.data.feeds import Feed
from fastbp.data.frames import check_names
from fastbp.data.sources import Rows, Source, Stored, Stream, opened
from fastbp.data.staging import Sample
from fastbp.data.streams import Stage, StoredFeed, StreamFeed, samples
from fastbp.layout.objective import EVALUATION_ROWS, Objective
from fastbp.training.weighting import balance, by_class, classes_of, sample_weights, without_missing

if TYPE_CHECKING:
    from fastbp.model import Model
    from fastbp.training.options import Options

Array = NDArray[Any]

TARGETS_READ = 1 << 16
"""Targets on disk that are looked at together."""


def stage(model: "Model", task: str, class_weight: Any = None, prefix: str = "") -> Stage:
    """What makes rows as they were read a sample for the kernels."""

    def staged(rows: Rows, name: str) -> Sample:
        x, y, weights = rows
        called = tuple(f"{prefix}{what} ({name})" for what in ("x", "y", "sample_weight"))
        if y is None:
            raise ValueError(f"{called[0]}: there are no targets; {task} wants (x, y) or (x, y, sample_weight)")
        sample = model._sample(x, y, task=task, names=(called[0], called[1], called[2]))
        if weights is not None:
            count = len(sample)
            sample = replace(sample, weights=sample_weights(weights, count, model.dtype, name=called[2], some=False))
        _, loss, _ = model._compiled(task)
        if class_weight is not None:
            sample = by_class(sample, class_weight, loss, model.output_width)
        return without_missing(sample, loss)

    return staged


def row_bytes(model: "Model", source: Source) -> int:
    """Bytes of a row in memory."""
    return (source.width + model.output_width) * model.dtype.itemsize


def feed_of(model: "Model", source: Source, options: "Options") -> tuple[Feed, Callable[[], Iterator[Sample]] | None]:
    """The rows to train on, and what reads those held out by `validation_split`.

    Raises
    ------
    ValueError : options that such rows can't serve
    """
    splits = bool(options.validation_split) and options.validation_data is None
    if splits and isinstance(source, Stream):
        raise ValueError("validation_split needs rows that can be counted: give validation_data beside an iterator")
    if isinstance(source, Stored):
        check_names(model.column_names, source.names)
    if not model.built and model.loss_name:
        model.build(source.width)
    model._compiled("fit")
    held = None
    if isinstance(source, Stored):
        if not source.targets:
            raise ValueError("fit: y is missing; give it as an array, a path, or the name of a Parquet column")
        model.column_names = model.column_names or source.names
        if splits:
            source, rest = _split(model, source, options)
            held = reader(model, rest, options.validation_steps, options.validation_batch_size)
    weights = options.class_weight
    if isinstance(weights, str) and weights == "balanced":
        weights = _balanced(model, source, options)
    staged = stage(model, "fit", weights)
    if isinstance(source, Stored):
        stored = StoredFeed(
            source,
            staged,
            row_bytes(model, source),
            batch=options.batch,
            shuffle=bool(options.shuffle),
            seed=model.seed,
            first_pass=model._epochs_seen,
            steps=options.steps_per_epoch,
        )
        return stored, held
    epochs = options.epochs - options.initial_epoch
    if source.once and options.steps_per_epoch is None and epochs > 1:
        raise ValueError(
            f"{epochs} epochs over an iterator that can be gone through once: give steps_per_epoch, or a function that "
            "makes a fresh one for each epoch"
        )
    return StreamFeed(source, staged, batch=options.batch_size, steps=options.steps_per_epoch, epochs=epochs), held


def _split(model: "Model", source: Stored, options: "Options") -> tuple[Stored, Stored]:
    """The rows to train on, and those that `validation_split` holds out: the last, or some of each class."""
    if not options.stratify:
        at = staging.split_at(len(source), options.validation_split)
        return source.part(0, at), source.part(at, len(source))
    share = staging.checked_share(options.validation_split)
    labels = np.concatenate([part for part, _ in _labels(model, source, "stratify=True")])
    train, test = preparation.held_out(labels, share, seed=model.seed, stratify=True)
    return source.chosen(train), source.chosen(test)


def _labels(model: "Model", source: Source, task: str) -> Iterator[tuple[Array, int]]:
    """The class numbers of a source's rows, some at a time, each with the number of classes."""
    _, loss, _ = model._compiled("fit")
    parts = source.targets_read(TARGETS_READ) if isinstance(source, Stored) else (y for _, y, _ in source.batches())
    for number, part in enumerate(parts, 1):
        name, rows = f"y (part {number})", len(part)
        y = staging.as_targets(
            part, loss.targets, model.output_width, model.dtype, rows=rows, name=name, missing=loss.mask_nan
        )
        yield classes_of(Sample(y, y), loss, model.output_width, task)


def _balanced(model: "Model", source: Source, options: "Options") -> dict[int, float]:
    """The weights of ``class_weight="balanced"``, by a look at all targets before the fit.

    Raises
    ------
    ValueError : rows that can be gone through once, or without an end that is known
    """
    if isinstance(source, Stream) and (source.once or options.steps_per_epoch is not None):
        why = "x can be gone through once" if source.once else "with steps_per_epoch x may have no end"
        raise ValueError(
            f'class_weight="balanced" looks at all targets before the fit, and {why}: give a function that makes a '
            "fresh iterator of all rows for each epoch, or the weights as a dict"
        )
    counts: Array | None = None
    for labels, classes in _labels(model, source, "class_weight"):
        found = np.bincount(labels[labels >= 0], minlength=classes)
        counts = found if counts is None else counts + found
    assert counts is not None
    return dict(enumerate(balance(counts).tolist()))


def reader(
    model: "Model", source: Source, steps: int | None, batch_size: int | None, prefix: str = "validation "
) -> Callable[[], Iterator[Sample]]:
    """What reads the rows to evaluate on, each time it is called."""
    batch = batch_size or EVALUATION_ROWS

    def read() -> Iterator[Sample]:
        staged = stage(model, "evaluate", prefix=prefix)
        with closing(samples(source, staged, batch, row_bytes(model, source), steps)) as ahead:
            yield from ahead

    return read


def held_out(model: "Model", given: Any, options: "Options") -> tuple[Callable[[], Iterator[Sample]], Any] | None:
    """What reads the validation's rows and what they are, None where they are arrays.

    Raises
    ------
    ValueError : an iterator that is gone through once, for several validations
    """
    parts = given if isinstance(given, (tuple, list)) and len(given) in (2, 3) else (given,)
    source = opened(*parts)
    if source is None:
        return None
    several = options.validation_steps is None and options.epochs - options.initial_epoch > 1
    if isinstance(source, Stream) and source.once and several:
        raise ValueError(
            "validation_data is an iterator that can be gone through once, for several epochs: give validation_steps, "
            "or a function that makes a fresh one each time"
        )
    return reader(model, source, options.validation_steps, options.validation_batch_size), source.identity


def evaluation(
    model: "Model", x: Any, y: Any, weights: Any, batch: int, steps: int | None
) -> tuple[Iterable[Sample], int | None]:
    """The rows that `evaluate` is given, some at a time, and how many batches they are, None where that is unknown."""
    source = opened(x, y, weights)
    if source is None:
        sample = model._sample(x, y, weights, task="evaluate")
        model._compiled("evaluate")
        sample = sample if steps is None else sample.first(steps * batch)
        return [sample], -(-len(sample) // batch)
    check_names(model.column_names, getattr(source, "names", None))
    model.build(source.width)
    count = -(-len(source) // batch) if isinstance(source, Stored) else steps
    return reader(model, source, steps, batch, "")(), count


def predicted(model: "Model", source: Source, batch: int, out: Any) -> Array:
    """The outputs of a source's rows: into `out`, or in memory."""
    check_names(model.column_names, getattr(source, "names", None))
    model.build(source.width)
    engine = model._ready(Objective(), False, None, False, batch)

    def staged(rows: Rows, name: str) -> Sample:
        x = staging.as_matrix(rows[0], model.dtype, name=f"x ({name})", width=source.width)
        model.check_inputs(x, model.compute_dtype, f"x ({name})")
        return Sample(x)

    if isinstance(source, Stored) or isinstance(out, str):
        out = outputs_for(model, len(source) if isinstance(source, Stored) else None, out)
    parts: list[Array] = []
    done = 0
    with closing(samples(source, staged, batch, row_bytes(model, source))) as ahead:
        for sample in ahead:
            rows = len(sample)
            if out is None:
                parts.append(np.empty((rows, model.output_width), model.dtype))
            elif done + rows > len(out):
                raise ValueError(f"out has {len(out)} rows; x gives more: {done + rows} so far")
            result = parts[-1] if out is None else out[done : done + rows]
            engine.run(sample.x, batch=batch, result=result).completed()
            done += rows
    return np.concatenate(parts) if out is None else out[:done]


def outputs_for(model: "Model", rows: int | None, out: Any, width: int | None = None) -> Any:
    """The array that predictions are written to: the one given, if it fits; on a GPU as `OnDevice`.

    Parameters
    ----------
    rows : how many, None where nobody knows
    out : what `predict` was given
    width : numbers a row, by default the model's outputs

    Raises
    ------
    ValueError : an array of another shape or type, or on a GPU where the model isn't
    """
    shape = (rows, model.output_width if width is None else width)
    if isinstance(out, str):
        if out != "device" or model.device != "cuda" or rows is None:
            raise ValueError(f'out={out!r}: wanted an array, or "device" of a model with device="cuda"')
        return devices.room((rows, shape[1]), model.dtype)
    if (there := device_arrays.found(out, "out")) is not None:
        if there.shape != shape or there.dtype != model.dtype or not (there.plain and there.writable):
            raise ValueError(
                f"out has shape {there.shape} and type {there.dtype}; wanted a C-ordered {shape} of {model.dtype}"
            )
        if model.device != "cuda":
            raise ValueError("out is on a GPU, and the model on the CPU: pass an array in main memory")
        return there
    if out is None:
        return np.empty((rows or 0, shape[1]), model.dtype)
    flags = out.flags
    if out.shape != shape or out.dtype != model.dtype or not (flags.c_contiguous and flags.writeable and flags.aligned):
        raise ValueError(f"out has shape {out.shape} and type {out.dtype}; wanted a C-ordered {shape} of {model.dtype}")
    return out

"""Floor 4: the options of ``Model.fit``, checked, and what they make of the data: rows to train on, rows held out."""

import os
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp._checks import flag, number, whole
from fastbp.data import staging
from fastbp.data.feeds import ArrayFeed, Feed
from fastbp.data.preparation import held_out
from fastbp.data.sources import opened
from fastbp.data.staging import Sample
from fastbp.layout.objective import EVALUATION_ROWS
from fastbp.reports.progress import resolve_verbose
from fastbp.reports.summary import check_fit
from fastbp.training import streaming
from fastbp.training.weighting import by_class, classes_of, without_missing

if TYPE_CHECKING:
    from fastbp.model import Model

BATCH_ROWS = 32


@dataclass(frozen=True)
class Held:
    """Rows held out for validation.

    Attributes
    ----------
    sample : the rows; None where they are read each time
    batch : rows of an evaluation's step
    epochs : the epochs (from 1) after which they are evaluated: every so many, or those of a set
    read : reads them, some at a time
    known : what `read` reads, as plain data
    """

    sample: Sample | None
    batch: int = EVALUATION_ROWS
    epochs: int | Container[int] = 1
    read: Callable[[], Iterable[Sample]] | None = None
    known: Any = None

    def samples(self) -> Iterable[Sample]:
        """The rows, some at a time."""
        if self.read is not None:
            return self.read()
        return [] if self.sample is None else [self.sample]

    def identity(self) -> Any:
        """What the rows are, as plain data."""
        return self.known if self.sample is None else self.sample.fingerprint()

    def due(self, epoch: int) -> bool:
        """Whether epoch `epoch` (from 0) ends with a validation."""
        return (epoch + 1) % self.epochs == 0 if isinstance(self.epochs, int) else epoch + 1 in self.epochs


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of ``Model.fit``, where they are described.

    Raises
    ------
    ValueError : an option that makes no sense, or none beside the others
    """

    batch_size: int | None = None
    epochs: int = 1
    verbose: Any = 0
    validation_split: float = 0.0
    validation_data: Any = None
    shuffle: bool = True
    class_weight: Any = None
    sample_weight: Any = None
    initial_epoch: int = 0
    steps_per_epoch: int | None = None
    validation_steps: int | None = None
    validation_batch_size: int | None = None
    validation_freq: Any = 1
    stratify: bool = False
    max_time: float | None = None
    on_interrupt: str = "raise"
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_every: int | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        whole("epochs", self.epochs)
        whole("initial_epoch", self.initial_epoch, least=0)
        for name in ("batch_size", "steps_per_epoch", "validation_steps", "validation_batch_size", "checkpoint_every"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name))
        freq = self.validation_freq
        many = isinstance(freq, Iterable) and not isinstance(freq, str)
        epochs = frozenset(whole("validation_freq", one) for one in freq) if many else whole("validation_freq", freq)
        object.__setattr__(self, "validation_freq", epochs)
        object.__setattr__(self, "verbose", resolve_verbose(self.verbose))
        for name in ("shuffle", "stratify", "resume"):
            flag(name, getattr(self, name))
        if self.checkpoint is not None and not isinstance(self.checkpoint, (str, os.PathLike)):
            raise ValueError(f"checkpoint must be the path of a file, got {self.checkpoint!r}")
        if self.initial_epoch >= self.epochs:
            raise ValueError(
                f"initial_epoch={self.initial_epoch} with epochs={self.epochs} leaves nothing to train: epochs is the "
                "number of the last epoch, so it must be greater"
            )
        if self.max_time is not None and number("max_time", self.max_time) <= 0:
            raise ValueError(f"max_time must be a number of seconds above 0, got {self.max_time!r}")
        if self.on_interrupt not in ("raise", "return"):
            raise ValueError(f'on_interrupt must be "raise" or "return", got {self.on_interrupt!r}')
        if self.checkpoint is None and (self.resume or self.checkpoint_every is not None):
            option = "resume" if self.resume else "checkpoint_every"
            raise ValueError(f"{option} is about a checkpoint: give checkpoint=PATH too")
        if self.stratify and (not self.validation_split or self.validation_data is not None):
            raise ValueError("stratify=True chooses the rows of validation_split: give a share, and no validation_data")
        if self.validation_data is None and not self.validation_split:
            for name, default in (("validation_steps", None), ("validation_batch_size", None), ("validation_freq", 1)):
                if getattr(self, name) != default:
                    raise ValueError(f"{name} is about a validation: give validation_data or validation_split too")

    @property
    def batch(self) -> int:
        """Rows of a step."""
        return self.batch_size or BATCH_ROWS

    def held(self, sample: Sample) -> Held:
        """The rows held out, as many and as often as the options say."""
        most = self.validation_steps and self.validation_steps * (self.validation_batch_size or self.batch)
        return replace(self.reading(None), sample=sample.first(most))

    def reading(self, read: Callable[[], Iterable[Sample]] | None, known: Any = None) -> Held:
        """Rows held out that are read each time, as often as the options say."""
        return Held(None, self.validation_batch_size or EVALUATION_ROWS, self.validation_freq, read, known)


def sources(model: "Model", x: Any, y: Any, options: Options) -> tuple[Feed, Held | None]:
    """The rows to train on, in the order that the options say, and those held out."""
    if (source := opened(x, y, options.sample_weight)) is not None:
        feed, read = streaming.feed_of(model, source, options)
        split = None if read is None else options.reading(read, source.identity)
        return feed, split or _validation(model, options)
    validates = bool(options.validation_split) or options.validation_data is not None
    check_fit(model, x, options.batch, validates)
    sample = model._sample(x, y, options.sample_weight)
    _, loss, _ = model._compiled("fit")
    held: Sample | None = None
    checked = _validation(model, options)
    if checked is None and options.validation_split and options.stratify:
        share = staging.checked_share(options.validation_split)
        labels, _ = classes_of(sample, loss, model.output_width, "stratify=True")
        train, test = held_out(labels, share, seed=model.seed, stratify=True)
        held = replace(sample, rows=test.astype(np.int64))
        sample = replace(sample, rows=train.astype(np.int64))
    elif checked is None and options.validation_split:
        at = staging.split_at(len(sample), options.validation_split)
        sample, held = sample.part(slice(at)), sample.part(slice(at, None))
    if options.class_weight is not None:
        sample = by_class(sample, options.class_weight, loss, model.output_width)
    rows = ArrayFeed(
        without_missing(sample, loss),
        batch=options.batch,
        shuffle=bool(options.shuffle),
        seed=model.seed,
        first_pass=model._epochs_seen,
        steps=options.steps_per_epoch,
    )
    return rows, checked if held is None else options.held(without_missing(held, loss))


def _validation(model: "Model", options: Options) -> Held | None:
    """The rows of ``validation_data``."""
    given = options.validation_data
    if given is None:
        return None
    if (found := streaming.held_out(model, given, options)) is not None:
        return options.reading(*found)
    if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
        raise ValueError("validation_data must be a pair (x, y) or (x, y, sample_weight)")
    held = model._sample(*given, names=("validation x", "validation y", "validation sample_weight"))
    _, loss, _ = model._compiled("fit")
    return options.held(without_missing(held, loss))

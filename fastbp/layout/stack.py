"""Floor 2: layers that follow one another, before there are weights."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbp._spelling import unknown_attribute
from fastbp.activations import unknown
from fastbp.data import sparse
from fastbp.data.sparse import SparseRows
from fastbp.layers import Dense, Embedding, Input, Layer, Network, lower, unique_names
from fastbp.layout.operations import ACTIVITY
from fastbp.program import Piece


class Stack:
    """The layers of a network.

    Parameters
    ----------
    layers : first to last; an `Input` may stand before them

    Attributes
    ----------
    layers : the layers, without the `Input`
    built : whether they have weights, so that none can be added
    """

    def __init__(self, layers: Iterable[Layer | Input] = ()) -> None:
        self.layers: list[Layer] = []
        self._input: int | None = None
        if not isinstance(layers, Iterable):
            raise TypeError(f"layers must be a list of layers, such as fb.Model([fb.Dense(10)]), got {layers!r}")
        for layer in layers:
            self.add(layer)

    @property
    def built(self) -> bool:
        """Whether the layers have weights."""
        return False

    def add(self, layer: Layer | Input) -> None:
        """Append a layer (before the model is built)."""
        if self.built:
            raise RuntimeError("add: the model is built already; add all layers before build, fit or set_weights")
        if isinstance(layer, Input):
            if self.layers or self._input is not None:
                raise ValueError("add: an Input stands once, before all other layers")
            self._input = layer.width
            return
        if not isinstance(layer, Layer):
            raise TypeError(f"add: wanted a layer such as fb.Dense(10), got {layer!r}")
        if self.layers and self.layers[-1].activation.coupled:
            raise ValueError("add: softmax couples the outputs of a row and may stand in the last layer only")
        if layer.input_dim is not None:
            before = self._width()
            if before not in (None, layer.input_dim):
                raise ValueError(f"add: {layer!r} takes {layer.input_dim} inputs, what stands before it gives {before}")
            self._input = self._input if self.layers else layer.input_dim
        self.layers.append(layer)

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """The layer of a name, as `summary` shows it, or of a number from 0.

        Raises
        ------
        ValueError : no such layer, or not one of the two given
        """
        if (name is None) == (index is None):
            raise ValueError('get_layer: give one of the two, name="dense" or index=0')
        names = self._names()
        if name is not None:
            if name not in names:
                raise unknown("layer", name, names)
            return self.layers[names.index(name)]
        if isinstance(index, bool) or not isinstance(index, int) or not -len(names) <= index < len(names):
            raise ValueError(f"get_layer: index must be a whole number below {len(names)}, got {index!r}")
        return self.layers[index]

    if not TYPE_CHECKING:  # for type checkers there is nothing that isn't there

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(name) if name.startswith("_") else unknown_attribute(self, name)

    @property
    def input_width(self) -> int | None:
        """I of the first layer; None until it is known."""
        return self._input

    def _width_by(self, weights: Sequence[ArrayLike]) -> int | None:
        """Columns of the inputs, by arrays in the order of ``get_weights``; None where they don't say."""
        looked_up, grown = 0, 0
        if self.layers and isinstance(first := self.layers[0], Embedding):
            looked_up, grown = len(first.columns), first.width(0) or 0
        if len(weights) <= looked_up or not np.ndim(weights[looked_up]):
            return None
        return np.shape(weights[looked_up])[0] - grown

    @property
    def output_width(self) -> int:
        """O of the last layer."""
        if not self.layers:
            raise RuntimeError("the model has no layers: add some, for example model.add(fb.Dense(1))")
        width = self._width()
        if width is None:
            raise RuntimeError("the output width isn't known before the input width: call build(width) or fit")
        return width

    def _width(self) -> int | None:
        """Columns behind the layers so far, None until that is known."""
        return [self._input, *self._widths()][-1]

    def outputs(self) -> list[tuple[Layer, int | None]]:
        """Each layer and the columns of what it gives, None where that isn't known yet."""
        return list(zip(self.layers, self._widths(), strict=True))

    def _widths(self) -> list[int | None]:
        """Columns behind each layer."""
        found: list[int | None] = [self._input]
        for layer in self.layers:
            found.append(layer.width(found[-1]))
        return found[1:]

    def widths(self) -> str:
        """The widths of the inputs and of the layers that change them, for example "784-256-10"."""
        found: int | None = self._input
        shown = [found]
        for layer, width in self.outputs():
            if isinstance(layer, Dense) or width != found:
                shown.append(width)
            found = width
        return "-".join(str(width or "?") for width in shown)

    def _network(self, width: int) -> Network:
        """The layers' ops for inputs of `width` columns."""
        network = lower(self.layers, width)
        if network.specs and network.specs[-1].operation is ACTIVITY:
            raise ValueError(
                f"{self.layers[-1]!r} penalises what goes on to another layer (an ActivityRegularization or "
                "activity_regularizer): it can't be the last one"
            )
        if all(spec.operation.noise for spec in network.specs):
            raise RuntimeError("the model has only layers that do nothing in a prediction: add a Dense layer")
        return network

    def check_inputs(self, rows: NDArray[Any] | SparseRows, compute_dtype: str, name: str = "x") -> None:
        """Refuse rows that a layer can't read; `name` is what errors call them.

        Raises
        ------
        ValueError : sparse rows for another layer than `Dense`, or numbers that are no categories of an `Embedding`
        """
        sparse.check(rows, compute_dtype, self.layers[0])
        if not isinstance(rows, SparseRows):
            for layer in self.layers:
                layer.check_inputs(rows, name)

    def _names(self) -> list[str]:
        """What the layers are called in summaries and files."""
        return unique_names(self.layers)

    def _drawn(self, width: int, seed: int) -> list[Iterator[Piece]]:
        """Fresh weights for inputs of `width` columns, array by array, in pieces drawn when they are asked for."""
        arrays: list[Iterator[Piece]] = []
        for index, layer in enumerate(self.layers):
            rng = np.random.Generator(np.random.Philox(key=[seed, index]))
            arrays += layer.initial(rng, width)
            width = layer.width(width) or width
        return arrays

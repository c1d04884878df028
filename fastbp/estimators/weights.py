"""Floor 5: the weights of an estimator: lists of arrays to whoever asks, an engine's flat buffer to train."""

from typing import Any

from numpy.typing import NDArray

from fastbp import activations
from fastbp.devices import there
from fastbp.estimators.network import Lists, Network
from fastbp.estimators.parameters import Parameters
from fastbp.estimators.rates import Rates
from fastbp.estimators.shape import Shape, dropped, hidden_rows

Array = NDArray[Any]
KINDS = ("coefs_", "intercepts_", "batch_norms_")
"""The lists of arrays, as the attributes are called."""


class Weights(Parameters):
    """An estimator with weights.

    They live in the network; lists that were handed out or set hold from then until the next step of training.
    """

    n_layers_: int
    out_activation_: str
    _optimizer: Rates
    _lists_given: Lists | None = None
    _network: Network | None = None
    _moments: list[list[Array]] | None = None

    @property
    def coefs_(self) -> list[Array]:
        """Weights (I, O) of each layer; what is written into them counts."""
        return self._list("coefs_")

    @coefs_.setter
    def coefs_(self, arrays: list[Array]) -> None:
        self._set_list("coefs_", arrays)

    @property
    def intercepts_(self) -> list[Array]:
        """Biases (O,) of each layer; what is written into them counts."""
        return self._list("intercepts_")

    @intercepts_.setter
    def intercepts_(self, arrays: list[Array]) -> None:
        self._set_list("intercepts_", arrays)

    @property
    def batch_norms_(self) -> list[Array]:
        """Of each hidden layer with `batch_norm` (4, O): gamma, beta, moving mean and moving variance."""
        return self._list("batch_norms_")

    @batch_norms_.setter
    def batch_norms_(self, arrays: list[Array]) -> None:
        self._set_list("batch_norms_", arrays)

    def _list(self, kind: str) -> list[Array]:
        if not self._has_weights:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {kind!r}")
        return self._lists()[KINDS.index(kind)]

    def _set_list(self, kind: str, arrays: list[Array]) -> None:
        known: Lists = self._lists() if self._has_weights else ([], [], [])
        coefs, intercepts, norms = (arrays if name == kind else old for name, old in zip(KINDS, known, strict=True))
        self._lists_given = coefs, intercepts, norms

    def _lists(self) -> Lists:
        if self._lists_given is None:
            assert self._network is not None
            self._lists_given = self._network.take()
        return self._lists_given

    @property
    def _has_weights(self) -> bool:
        return self._network is not None or self._lists_given is not None

    def _shape(self) -> Shape:
        """What the parameters ask for between the products."""
        hidden = self.n_layers_ - 2
        rows = (*hidden_rows(self.activation, hidden), activations.get(self.out_activation_))
        return Shape(rows, dropped(self.dropout, hidden), bool(self.batch_norm))

    def _ready(self) -> Network:
        """The network, with the weights that the lists hold where they were handed out."""
        asked, known = (self._shape(), self.alpha, there(self.device)), self._network
        same = known is not None and (known.shape, known.alpha, known.asked) == asked
        if known is not None and same and self._lists_given is None:
            return known
        lists = self._lists()
        if known is not None and same and known.takes(lists):
            known.put(lists)
            return known
        moments = self._moments if known is None else known.moments()
        self._network = Network(lists, *asked)
        if moments:
            self._network.put_moments(moments, self._optimizer.rule(1, 1, 1, 0))
        self._moments = None
        return self._network

    def _hold_weights(self) -> None:
        """Training goes on: what a callback wrote into the lists counts, and lists that were handed out are over."""
        if self._lists_given is not None:
            self._ready()
            self._lists_given = None

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        network = state.pop("_network", None)
        if network is not None:
            state["_lists_given"] = self._lists()
            state["_moments"] = network.moments()
        return state

"""The callbacks of one call, and which hooks they need."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fastbp.callbacks.base import Callback
from fastbp.callbacks.monitors import Monitor

if TYPE_CHECKING:
    from fastbp.model import Model

_BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
_EPOCH_HOOKS = ("on_epoch_begin", "on_epoch_end")
_TEST_BATCH_HOOKS = ("on_test_batch_begin", "on_test_batch_end")
_TEST_HOOKS = ("on_test_begin", "on_test_end", *_TEST_BATCH_HOOKS)


def _overrides(callback: Callback, hooks: Iterable[str]) -> bool:
    return any(hook in vars(callback) or getattr(type(callback), hook) is not getattr(Callback, hook) for hook in hooks)


class CallbackList:
    """The callbacks of one call, and what they need to be called for.

    Parameters
    ----------
    callbacks : None, one `Callback` or several
    model : the model
    params : see `Callback`

    Attributes
    ----------
    watches_batches, watches_epochs, watches_tests, watches_test_batches : whether any overrides such a hook

    Raises
    ------
    TypeError : something that is no `Callback`
    """

    def __init__(self, callbacks: Callback | Iterable[Callback] | None, model: "Model", **params: Any) -> None:
        if callbacks is None:
            callbacks = ()
        several = isinstance(callbacks, Iterable) and not isinstance(callbacks, Callback)
        self.callbacks: list[Any] = list(callbacks) if several else [callbacks]  # type: ignore[arg-type]
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                hint = f", pass {callback.__name__}()" if isinstance(callback, type) else ""
                raise TypeError(f"callbacks holds {callback!r}; wanted objects of fb.callbacks.Callback{hint}")
            callback.set_params(params)
            callback.set_model(model)
        self.watches_batches = any(_overrides(c, _BATCH_HOOKS) for c in self.callbacks)
        self.watches_epochs = any(_overrides(c, _EPOCH_HOOKS) for c in self.callbacks)
        self.watches_tests = any(_overrides(c, _TEST_HOOKS) for c in self.callbacks)
        self.watches_test_batches = any(_overrides(c, _TEST_BATCH_HOOKS) for c in self.callbacks)

    def check_monitors(self, names: Iterable[str]) -> None:
        """Refuse callbacks that watch a value nobody reports; a callback of one's own may report anything."""
        if all(type(c).__module__.startswith("fastbp.callbacks.") for c in self.callbacks):
            for callback in self.callbacks:
                if isinstance(callback, Monitor):
                    callback.check([*names, "learning_rate"])

    def call(self, hook: str, *arguments: Any) -> None:
        """Call a hook of each, in the order given."""
        for callback in self.callbacks:
            getattr(callback, hook)(*arguments)

"""What all callbacks have: Keras' hooks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastbp.model import Model

Logs = dict[str, float]


class Callback:
    """What watches a fit: override the hooks you need, as in Keras.

    A fit enters Python about twenty times a second. Where no callback overrides a batch hook it stays so, and only ends
    of epochs are waited for; a batch hook costs one entry per step.

    ``logs`` holds the values reported: at the end of an epoch the loss, the metrics and those of the validation, at the
    end of a batch their means over the epoch so far. What a callback adds to an epoch's logs goes into the history.

    Attributes
    ----------
    model : the `Model` that is trained; ``model.stop_training = True`` ends the fit after the running batch or epoch
    params : dict with "epochs", "steps" (of an epoch, None where unknown), "verbose" and "metrics" (names reported)
    """

    model: "Model"
    params: dict[str, Any]

    def set_model(self, model: "Model") -> None:
        """Called with the model, before all else."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Called with `params`, before all else."""
        self.params = params

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Called when a fit begins (a resumed one too)."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Called when a fit returns, not when an error or Ctrl-C leaves it."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Called before an epoch, counted from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Called after an epoch and its validation."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Called before a step, counted from 0 in its epoch."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Called after a step."""
        self.on_batch_end(batch, logs)

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Another name for `on_train_batch_begin`."""

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Another name for `on_train_batch_end`."""

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Called before an evaluation, the validation of a fit included."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Called after an evaluation."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Called before a batch of an evaluation."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Called after a batch of an evaluation."""

    def on_divergence(self, error: FloatingPointError) -> None:
        """Called when the loss or the weights became NaN or infinite, with the last finite weights put back.

        The error is raised after it, unless a callback sets ``model.stop_training``.
        """

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint must hold to go on with this callback: plain data, arrays and lists of them."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` gave; called after `on_train_begin` of a resumed fit."""

"""Callbacks that write what is reported: to a file, to TensorBoard, to MLflow."""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np

from fastbp._checks import whole
from fastbp._spelling import answers
from fastbp.callbacks.base import Callback, Logs
from fastbp.history import VALIDATION


class CSVLogger(Callback):
    """Writes each epoch's values as a line of a CSV file, on disk as soon as the epoch is over.

    Parameters
    ----------
    filename : the file
    separator : between the values, default ","
    append : go on with a file that exists, instead of beginning it anew
    """

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False) -> None:
        self.filename, self.separator, self.append = Path(filename), str(separator), bool(append)
        if not self.filename.absolute().parent.is_dir():
            raise FileNotFoundError(f"CSVLogger: the folder {self.filename.parent} does not exist: make it first")
        self._names: list[str] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._names = []
        if self.append and self.filename.exists() and self.filename.stat().st_size:
            with self.filename.open(newline="", encoding="utf-8") as file:
                self._names = next(csv.reader(file, delimiter=self.separator))[1:]
        else:
            self.filename.write_text("", encoding="utf-8")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = logs or {}
        with self.filename.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=self.separator, lineterminator="\n")
            if not self._names:
                self._names = [name for name in self.params["metrics"] if name not in logs]
                self._names = [*logs, *self._names]
                writer.writerow(["epoch", *self._names])
            writer.writerow([epoch, *(logs.get(name, "") for name in self._names)])

    def get_state(self) -> dict[str, Any]:
        return {"names": self._names, "text": self.filename.read_text(encoding="utf-8")}

    def set_state(self, state: dict[str, Any]) -> None:
        self._names = list(state["names"])
        self.filename.write_text(state["text"], encoding="utf-8")


class MLflow(Callback):
    """Logs to MLflow's active run: the values of each epoch and the learning rate; what is trained, and how.

    Parameters are the optimizer with its settings, the loss, the layers, the number type, the seed and what
    `Callback.params` holds. A parameter that the run has already keeps its value, as MLflow wants it: several fits of
    one run go on from each other.

    Raises
    ------
    ImportError : mlflow isn't installed
    """

    def __init__(self) -> None:
        try:
            import mlflow  # noqa: F401
        except ImportError as error:
            raise ImportError("MLflow needs mlflow: pip install 'fastbp[mlflow]'") from error

    def on_train_begin(self, logs: Logs | None = None) -> None:
        import mlflow

        model = self.model
        assert model.optimizer is not None
        described: dict[str, Any] = {
            "epochs": self.params["epochs"],
            "steps": self.params["steps"],
            "loss": model.loss_name,
            **{f"optimizer_{name}": value for name, value in model.optimizer.config().items()},
            "layers": ", ".join(map(repr, model.layers)),
            "parameters": model.count_params(),
            "dtype": model.compute_dtype,
            "seed": model.seed,
        }
        run = mlflow.active_run() or mlflow.start_run()
        known = mlflow.get_run(run.info.run_id).data.params
        mlflow.log_params({name: value for name, value in described.items() if name not in known})

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        import mlflow

        values = {"learning_rate": self.model.learning_rate, **(logs or {})}
        mlflow.log_metrics({name: float(v) for name, v in values.items() if np.ndim(v) == 0}, step=epoch)


class TensorBoard(Callback):
    """Writes the loss, the metrics and the learning rate of each epoch for TensorBoard, with tensorboardX.

    Training goes to the folder "train" in `log_dir`, validation to "validation", under Keras' names ("epoch_loss" ...).

    Parameters
    ----------
    log_dir : the folder, default "logs"
    histogram_freq : epochs between histograms of all weights, default 0 for none
    update_freq : "epoch", or a number of batches after which the running values are written too (which costs an entry
        of Python per step); "batch" is 1

    Raises
    ------
    ImportError : tensorboardX isn't installed
    """

    def __init__(
        self, log_dir: str | os.PathLike[str] = "logs", histogram_freq: int = 0, update_freq: str | int = "epoch"
    ) -> None:
        try:
            import tensorboardX  # noqa: F401
        except ImportError as error:
            raise ImportError("TensorBoard needs tensorboardX: pip install 'fastbp[tensorboard]'") from error
        self.log_dir = Path(log_dir)
        self.histogram_freq = whole("TensorBoard: histogram_freq", histogram_freq, least=0)
        self.update_freq = update_freq
        self._writers: dict[str, Any] = {}
        if update_freq != "epoch":
            self._every = 1 if update_freq == "batch" else whole("TensorBoard: update_freq", update_freq)
            self._seen = 0
            vars(self).update(on_train_batch_end=self._after_batch)

    def _writer(self, which: str) -> Any:
        if which not in self._writers:
            from tensorboardX import SummaryWriter

            self._writers[which] = SummaryWriter(str(self.log_dir / which))
        return self._writers[which]

    def _after_batch(self, batch: int, logs: Logs | None = None) -> None:
        self._seen += 1
        if self._seen % self._every == 0:
            for name, value in (logs or {}).items():
                if np.ndim(value) == 0:
                    self._writer("train").add_scalar(f"batch_{name}", value, self._seen)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        for name, value in {"learning_rate": self.model.learning_rate, **(logs or {})}.items():
            which = "validation" if name.startswith(VALIDATION) else "train"
            if np.ndim(value):
                continue
            self._writer(which).add_scalar(f"epoch_{name.removeprefix(VALIDATION)}", value, epoch)
        if self.histogram_freq and (epoch + 1) % self.histogram_freq == 0:
            for name, array in self.model.named_weights().items():
                self._writer("train").add_histogram(name, array, epoch)
        for writer in self._writers.values():
            writer.flush()

    def on_train_end(self, logs: Logs | None = None) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def get_state(self) -> dict[str, Any]:
        return {} if self.update_freq == "epoch" else {"_seen": self._seen}

    def set_state(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


answers(__name__)

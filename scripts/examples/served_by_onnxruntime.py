"""A model trained here and served by onnxruntime: one file, no fastbp where it runs."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
from sklearn.datasets import load_digits

import fastbp as fb


def main():
    """Returns both sides' probabilities of the test rows, and the accuracy."""
    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), digits.target
    model = fb.Model([fb.Dense(64, activation="gelu"), fb.Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x[:1500], y[:1500], epochs=15, verbose=0)
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "digits.onnx")
        fb.to_onnx(model, path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (served,) = session.run(None, {"x": x[1500:]})
    here = model.predict(x[1500:])
    accuracy = float((served.argmax(axis=1) == y[1500:]).mean())
    print(f"largest difference {np.abs(served - here).max():.1e}, accuracy of what is served {accuracy:.3f}")
    return here, served, accuracy


if __name__ == "__main__":
    main()

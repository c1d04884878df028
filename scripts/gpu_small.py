"""Small networks through every way that a GPU's steps have, for compute-sanitizer: see ``gpu_check.sh``."""

import numpy as np

import fastbp as fb

NETWORKS = {
    "narrow": ([fb.Dense(12, activation="relu"), fb.Dense(3, activation="softmax")], 7, 33, {}),
    "narrow, noise": (
        [fb.GaussianNoise(0.1), fb.Dense(12, activation="tanh"), fb.Dropout(0.2), fb.Dense(3, activation="softmax")],
        7,
        33,
        {},
    ),
    "narrow, normalised": (
        [
            *(fb.Normalization(0.1, 2.0), fb.Dense(12), fb.BatchNormalization(), fb.Dense(9, activation="tanh")),
            *(fb.LayerNormalization(), fb.Dropout(0.2), fb.Dense(3, activation="softmax")),
        ],
        7,
        33,
        {},
    ),
    "every kind": (
        [
            fb.Dense(12, activation="gelu"),
            fb.BatchNormalization(),
            fb.Dropout(0.2),
            fb.Residual([fb.LayerNormalization(), fb.Dense(12, activation="tanh", kernel_regularizer="l2")]),
            fb.Dense(3, activation="softmax"),
        ],
        7,
        33,
        {},
    ),
    "wide": ([fb.Dense(96, activation="relu"), fb.Dense(80, activation="gelu_tanh"), fb.Dense(3)], 64, 1024, {}),
    "wide, bfloat16": (
        [fb.Dense(96, activation="relu"), fb.Dense(80, activation="tanh"), fb.Dense(3)],
        64,
        1024,
        {"precision": "bfloat16"},
    ),
}
"""Layers, inputs, rows of a batch and options of the model."""
OPTIMIZERS = fb.SGD(0.01, momentum=0.9), fb.Adam(1e-3, global_clipnorm=1.0)


def main() -> None:
    """Train each with each optimizer, short last batches included, and compare a prediction with the CPU's."""
    rng = np.random.default_rng(0)
    for name, (layers, inputs, batch, options) in NETWORKS.items():
        x = rng.standard_normal((3 * batch + 5, inputs)).astype(np.float32)
        labelled = layers[-1].activation.name == "softmax"
        y = rng.integers(0, 3, len(x)) if labelled else rng.standard_normal((len(x), 3)).astype(np.float32)
        for optimizer in OPTIMIZERS:
            model = fb.Model([type(layer).from_config(layer.config()) for layer in layers], device="cuda", **options)
            model.compile(optimizer, "sparse_categorical_crossentropy" if labelled else "mse")
            history = model.fit(x, y, batch_size=batch, epochs=12, verbose=0, validation_split=0.1)
            same = fb.Model([type(layer).from_config(layer.config()) for layer in layers])
            same.build(inputs)
            same.set_weights(model.get_weights())
            difference = float(np.abs(model.predict(x) - same.predict(x)).max())
            limit = 0.1 if options else 1e-3
            loss = history.history["loss"][-1]
            print(f"{name}, {type(optimizer).__name__}: loss {loss:.4f}, differs by {difference:.1e}")
            assert np.isfinite(loss) and difference < limit


if __name__ == "__main__":
    main()

"""784-10-10 with relu and softmax, trained by Adam in a loop of one's own: gradients in, update out."""

import numpy as np

import fastbp as fb

BATCH, EPOCHS = 128, 3


def make_data(rows=2000):
    """Ten symbols in MNIST's size, the pressure of the pen left to chance: x (rows, 784), one-hot y (rows, 10)."""
    rng = np.random.default_rng(0)
    labels = rng.integers(10, size=rows)
    strokes = rng.random((10, 784)) < 0.15
    return strokes[labels] * rng.random((rows, 784)), np.eye(10)[labels]


def train_step(model, x, y):
    gradients = model.gradients(x, y)
    model.apply_gradients(gradients)


def main(dtype="float32"):
    """Returns the start weights, the trained model and [loss, accuracy] of each epoch."""
    x, y = make_data()
    layers = [fb.Dense(10, activation="relu", input_dim=784), fb.Dense(10, activation="softmax")]
    model = fb.Model(layers, dtype=dtype, seed=0)
    start = model.get_weights()
    model.compile(fb.Adam(learning_rate=0.001), loss="categorical_crossentropy", metrics=["accuracy"])

    scores = []
    for epoch in range(EPOCHS):
        for first in range(0, len(x), BATCH):
            train_step(model, x[first : first + BATCH], y[first : first + BATCH])
        scores.append(model.evaluate(x, y, verbose=0))
        print("epoch {}   loss {:.4f}   accuracy {:.4f}".format(epoch + 1, *scores[-1]))
    return start, model, scores


if __name__ == "__main__":
    main()

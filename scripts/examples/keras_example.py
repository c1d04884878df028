"""Keras' introductory binary classifier, line for line; only the import is fastbp's."""

import numpy as np

from fastbp import SGD, Dense, Sequential

rng = np.random.default_rng(0)
x_train, y_train = rng.random((1000, 20)), rng.integers(2, size=(1000, 1))


def main(shuffle=True):
    """Returns the start weights, the trained model, its history and [loss, accuracy]."""
    model = Sequential()
    model.add(Dense(10, input_dim=20, activation="relu"))
    model.add(Dense(1, activation="sigmoid"))
    start = model.get_weights()

    model.compile(loss="binary_crossentropy", optimizer=SGD(0.01), metrics=["accuracy"])
    history = model.fit(x_train, y_train, epochs=10, batch_size=32, shuffle=shuffle)
    score = model.evaluate(x_train, y_train, batch_size=32)

    print("loss {:.4f}, accuracy {:.4f}".format(*score))
    return start, model, history, score


if __name__ == "__main__":
    main()

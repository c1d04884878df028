"""One sigmoid layer and the squared error: the smallest network that learns.

The output repeats the first of three binary inputs; four rows are enough to find that out.
"""

import numpy as np

import fastbp as fb

X = np.array([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]])
Y = np.array([[0], [0], [1], [1]])


def main(iterations=10_000, dtype="float64"):
    """Returns the start weights, the trained model and its history."""
    model = fb.Model([fb.Dense(1, activation="sigmoid", use_bias=False, input_dim=3)], dtype=dtype, seed=1)
    start = model.get_weights()
    model.compile(fb.SGD(learning_rate=1.0), loss="half_squared_error")
    history = model.fit(X, Y, batch_size=4, epochs=iterations, shuffle=False, verbose=0)

    print("loss     ", history.history["loss"][0], "->", history.history["loss"][-1])
    print("weights  ", model.get_weights()[0].ravel())
    print("outputs  ", model.predict(X).ravel())
    return start, model, history


if __name__ == "__main__":
    main()

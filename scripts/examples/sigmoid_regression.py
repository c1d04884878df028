"""y = sigmoid(w x + b) through five points: logistic growth fitted by plain gradient descent."""

import numpy as np

import fastbp as fb

X = np.array([[-2.0], [-1.0], [0.0], [1.0], [2.0]])
Y = np.array([[0.05], [0.15], [0.40], [0.75], [0.95]])


def main(epochs=1000, dtype="float64"):
    """Returns the start weights, the trained model and its history."""
    model = fb.Model([fb.Dense(1, activation="sigmoid", input_dim=1)], dtype=dtype, seed=0)
    start = model.get_weights()
    model.compile(fb.SGD(learning_rate=1.0), loss="mse")
    history = model.fit(X, Y, batch_size=len(X), epochs=epochs, shuffle=False, verbose=0)

    w, b = (array.item() for array in model.get_weights())
    print(f"y = sigmoid({w:.4f} x + {b:.4f}), mean squared error {history.history['loss'][-1]:.6f}")
    for x, y, fitted in zip(X.ravel(), Y.ravel(), model.predict(X).ravel(), strict=True):
        print(f"x = {x:4.1f}   y = {y:.2f}   fitted {fitted:.4f}")
    return start, model, history


if __name__ == "__main__":
    main()

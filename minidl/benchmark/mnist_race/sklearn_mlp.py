"""scikit-learn: at a constant learning rate, the best of a few, and for up to 15 epochs."""

import json
import sys

import numpy as np
from sklearn.neural_network import MLPClassifier


def main(file: str, accuracy: float) -> None:
    """Train until the accuracy is reached."""
    with np.load(file) as mnist:
        X, y, X_test, y_test = (mnist[k] for k in ("x_train", "y_train", "x_test", "y_test"))
    mean, deviation = X.mean(dtype=np.float32), X.std(dtype=np.float32)
    X, X_test = (
        (images.reshape(-1, 784).astype(np.float32) - mean) / deviation for images in (X, X_test)
    )
    model = MLPClassifier(
        (256,),
        solver="sgd",
        alpha=0.0,
        batch_size=128,
        learning_rate_init=0.05,
        momentum=0.9,
        nesterovs_momentum=True,
        random_state=0,
    )
    for epoch in range(1, 16):
        model.partial_fit(X, y, classes=np.arange(10))
        reached = model.score(X_test, y_test)
        print(json.dumps({"epochs": epoch, "accuracy": reached}))
        if reached >= accuracy:
            break


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))

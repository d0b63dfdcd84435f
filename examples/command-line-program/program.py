"""A program that knows nothing of Studies: it has options, trains, and prints.

Softmax regression on scikit-learn's digits by stochastic gradient descent with momentum; `--help` shows its options.
"""

import argparse

import numpy as np
from sklearn.datasets import load_digits

parser = argparse.ArgumentParser(description="Trains softmax regression on handwritten digits.")
parser.add_argument("--lr", type=float, default=0.1, help="learning rate")
parser.add_argument("--momentum", type=float, default=0.0, help="how much of the last step is taken again")
parser.add_argument("--batch-size", type=int, default=32, help="images a step")
parser.add_argument("--epochs", type=int, default=20, help="passes over all images")
options = parser.parse_args()

rng = np.random.default_rng(0)
images, labels = load_digits(return_X_y=True)
order = rng.permutation(len(images))
x, y = images[order] / 16, np.eye(10)[labels[order]]
x_train, y_train, x_val, y_val = x[:1200], y[:1200], x[1200:], y[1200:]


def probabilities(x):
    scores = x @ weights + bias
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


weights, bias = np.zeros((64, 10)), np.zeros(10)
weights_step, bias_step = np.zeros_like(weights), np.zeros_like(bias)
for epoch in range(1, options.epochs + 1):
    for batch in np.array_split(rng.permutation(len(x_train)), max(1, len(x_train) // options.batch_size)):
        error = (probabilities(x_train[batch]) - y_train[batch]) / len(batch)
        weights_step = options.momentum * weights_step - options.lr * x_train[batch].T @ error
        bias_step = options.momentum * bias_step - options.lr * error.sum(axis=0)
        weights, bias = weights + weights_step, bias + bias_step
    loss = -np.log((probabilities(x_val) * y_val).sum(axis=1) + 1e-12).mean()
    print(f"epoch {epoch} loss {loss:.4f}", flush=True)

"""Trains a network of one hidden layer on scikit-learn's digits, in numpy, and goes on from where another training stood.

Three labels in ten are wrong: the network should learn fast at first, and not learn these by heart in the end. No constant
learning rate and dropout do both.
"""

import hpo
import numpy as np
from sklearn.datasets import load_digits

EPOCHS_BY_HAND = 20
BATCH = 32

parameters = hpo.parameters(learning_rate=0.3, dropout=0.2)

images, labels = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
order = rng.permutation(len(labels))
images, labels = images[order] / 16, labels[order]
x_train, y_train, x_val, y_val = images[:600], labels[:600], images[600:1200], labels[600:1200]
y_train = np.where(rng.random(600) < 0.3, rng.integers(10, size=600), y_train)

# The weights are those of another Trial where this one goes on from it, and its own after an interruption.
found = hpo.checkpoint.load_arrays()
if found:
    weights = found.content
else:
    weights = {"w1": rng.normal(0, 0.2, (64, 48)), "b1": np.zeros(48), "w2": rng.normal(0, 0.2, (48, 10)), "b2": np.zeros(10)}


def log_probabilities(hidden):
    scores = hidden @ weights["w2"] + weights["b2"]
    scores -= scores.max(axis=1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def train_on(x, y, noise):
    keep = (noise.random((len(x), 48)) >= parameters.dropout) / (1 - parameters.dropout)
    hidden = np.maximum(x @ weights["w1"] + weights["b1"], 0) * keep
    error = np.exp(log_probabilities(hidden))
    error[np.arange(len(y)), y] -= 1
    error /= len(y)
    back = (error @ weights["w2"].T) * (hidden > 0) * keep
    steps = {"w2": hidden.T @ error, "b2": error.sum(axis=0), "w1": x.T @ back, "b1": back.sum(axis=0)}
    for name, step in steps.items():
        weights[name] -= parameters.learning_rate * step


for epoch in range(hpo.start_step() + 1, (hpo.budget() or EPOCHS_BY_HAND) + 1):
    noise = np.random.default_rng(epoch)  # a training that goes on shuffles as one that never stopped
    for batch in np.array_split(noise.permutation(len(y_train)), len(y_train) // BATCH):
        train_on(x_train[batch], y_train[batch], noise)
    hpo.checkpoint.save_arrays(epoch, weights)
    predicted = log_probabilities(np.maximum(x_val @ weights["w1"] + weights["b1"], 0))
    hpo.report(
        step=epoch,
        val_loss=-predicted[np.arange(len(y_val)), y_val].mean(),
        val_accuracy=(predicted.argmax(axis=1) == y_val).mean(),
    )

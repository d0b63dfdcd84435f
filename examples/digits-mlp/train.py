"""Trains a neural network on scikit-learn's digits, and reports after every epoch.

In a Trial the Study chooses the parameters and the number of epochs; `python train.py` alone takes the defaults below.
"""

import hpo
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

EPOCHS_BY_HAND = 10

parameters = hpo.parameters(learning_rate=1e-3, alpha=1e-4, hidden=64, batch=32)

images, labels = load_digits(return_X_y=True)
x_train, x_val, y_train, y_val = train_test_split(images / 16, labels, test_size=0.3, stratify=labels, random_state=0)


def report(model, epoch):
    probabilities = model.predict_proba(x_val)
    val_accuracy = (probabilities.argmax(axis=1) == y_val).mean()
    hpo.report(step=epoch, val_loss=log_loss(y_val, probabilities), val_accuracy=val_accuracy)


# Where the Study keeps checkpoints, a promoted Trial goes on from where the Trial below it has ended, and one that was interrupted
# from its own last epoch. What it begins with is reported too: after an interruption there may be nothing left to train.
found = hpo.checkpoint.load_estimator()
if found:
    model = found.content
    report(model, found.step)
else:
    model = MLPClassifier(
        hidden_layer_sizes=(parameters.hidden,),
        learning_rate_init=parameters.learning_rate,
        alpha=parameters.alpha,
        batch_size=parameters.batch,
        random_state=0,
    )

for epoch in range(hpo.start_step() + 1, (hpo.budget() or EPOCHS_BY_HAND) + 1):
    model.partial_fit(x_train, y_train, classes=range(10))
    hpo.checkpoint.save_estimator(epoch, model)
    report(model, epoch)

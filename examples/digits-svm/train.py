"""Cross-validates a support vector machine on scikit-learn's digits: 1,797 images of 8 × 8 pixels.

In a Trial the Study chooses the parameters; `python train.py` alone takes the defaults below.
"""

import hpo
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

images, labels = load_digits(return_X_y=True)

# Parameters that the kernel does not use are not handed over, and SVC has its own defaults for them.
model = SVC(**hpo.parameters(C=1.0, kernel="rbf"))

accuracies = cross_val_score(model, images / 16, labels, cv=3)
hpo.report(accuracy=accuracies.mean(), worst_fold=accuracies.min())

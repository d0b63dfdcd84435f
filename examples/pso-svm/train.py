"""Cross-validates a support vector machine on scikit-learn's digits, as L. Yang and A. Shami do: three folds, accuracy.

In a Trial the swarm chooses C and the kernel; `python train.py` alone takes scikit-learn's defaults.
"""

import hpo
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

images, labels = load_digits(return_X_y=True)
model = SVC(**hpo.parameters(C=1.0, kernel="rbf"), gamma="scale")
hpo.report(accuracy=cross_val_score(model, images, labels, cv=3).mean())

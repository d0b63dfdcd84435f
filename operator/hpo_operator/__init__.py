"""A Kubernetes operator for hyperparameter optimisation, and its local runner."""

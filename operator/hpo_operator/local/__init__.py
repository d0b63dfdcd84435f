"""Studies without a cluster: the same planning, with processes for pods and a folder for the API server."""

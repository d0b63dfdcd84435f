"""Studies on a cluster: kopf for the watches, one queue of Studies, and an executor on the official client."""

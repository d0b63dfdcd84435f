"""Populations: members that train in generations, and start from each other's checkpoints."""

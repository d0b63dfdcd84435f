"""Gaussian process regression on search spaces: one mathematical role a module, numpy and scipy only.

features    configurations as points of a Euclidean space
outputs     losses as targets that a Gaussian process can explain
model       the posterior, and its hyperparameters by maximum a posteriori
acquisition what an evaluation is worth
search      where the acquisition is largest
"""

"""Gaussian process regression on search spaces: one mathematical role a module.

features    configurations as points of a Euclidean space
outputs     losses as targets that a Gaussian process can explain
model       the posterior, and its hyperparameters by maximum a posteriori
acquisition what an evaluation is worth
lookahead   what it is worth when another one will follow
botorch     the same models in BoTorch, and its acquisitions; imported only when asked for, all else is numpy and scipy
earlier     what other Studies have found, as a trend to start from
search      where the acquisition is largest
"""

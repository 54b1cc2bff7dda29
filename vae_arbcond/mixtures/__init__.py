"""Closed forms: Gaussians given any of their features, EM on gappy rows, marginals."""

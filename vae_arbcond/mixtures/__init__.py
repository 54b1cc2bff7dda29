"""Closed forms: Gaussians given any part of their features, EM on rows with gaps, marginals."""

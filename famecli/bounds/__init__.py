"""Bounds of log p(x) that are tighter than the ELBO, and how far from it they are. See docs/bounds.md."""

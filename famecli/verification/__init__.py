"""Checks that a model's likelihood is valid: causal, normalised, and equal to what is sampled and coded."""

"""Proofs that a model's likelihood is one: causal, summing to one, and what is sampled and coded."""

"""Negative log-likelihoods: estimators, and the record of one with its protocol."""

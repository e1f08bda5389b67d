"""Negative log-likelihoods: estimators, records, paired comparison."""

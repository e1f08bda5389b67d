"""Checkpoints scored on data sets: reports with their protocol, claims measured again, paired comparison."""

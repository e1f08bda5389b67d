"""Checkpoint files: header, provenance, claims, cards, index and cache of named weights."""

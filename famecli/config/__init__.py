"""Configurations: keys, presets, files and overrides."""

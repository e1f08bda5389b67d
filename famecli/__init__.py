"""Density estimation and exact PixelCNN sampling with the Feature Map Variational Auto-Encoder."""

from importlib.metadata import version

__version__ = version("famecli")

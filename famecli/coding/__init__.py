"""Lossless coding of images with a model: what its NLL promises, as files."""

"""Lossless coding of images with a model, at the code length of its NLL."""

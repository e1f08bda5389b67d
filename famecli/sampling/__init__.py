"""Sampling: the order of pixels, the exact wavefront sampler, its slow reference, images from seeds."""

"""Global structure in latents and in a PixelCNN; see docs/experiments.md."""

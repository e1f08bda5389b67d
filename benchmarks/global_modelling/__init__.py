"""What the latents know that a PixelCNN does not; see docs/experiments.md."""

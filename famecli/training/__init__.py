"""Training: optimizers, schedules, steps, runs in their folders."""

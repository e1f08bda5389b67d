"""Devices, processes, processors and matrix products."""

"""Helpers of the tests: models, data, commands, faults."""

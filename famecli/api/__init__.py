"""The model handle and the four verbs: load, evaluate, train, compare."""

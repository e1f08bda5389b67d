"""A page about runs: what is collected (`collect`), drawn (`charts`, `pictures`) and written (`render`)."""

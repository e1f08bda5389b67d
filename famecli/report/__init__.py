"""A page about runs: its material (`collect`), its sections (`page`), its form (`render`, `templates/`)."""

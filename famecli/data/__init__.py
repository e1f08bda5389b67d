"""Data sets: their files, found or downloaded, checked and read."""

"""The command line: one module per command that parses, calls the library, and prints."""

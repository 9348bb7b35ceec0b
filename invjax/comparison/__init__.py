"""The same restorations by other people's code, in an environment of its own."""

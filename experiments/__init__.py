"""Binaries: flags -> library calls -> files. `python -m experiments.<name>`."""

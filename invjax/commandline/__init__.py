"""What the binaries of `experiments/` share: flags, errors, progress, records."""

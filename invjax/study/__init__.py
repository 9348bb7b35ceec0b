"""Many restorations: which ones, their results on disk, and what they say.

plan        which images, methods and samples, with their keys
cells       the results of a plan on disk, one image, sample and method each
running     computes the cells that are missing
summaries   settings, means and standard errors over images, and their words
verdict     the paper's claims, decided by paired differences

sweeping    `invjax.sweep`: a grid of hyperparameters over several images
evaluation  `invjax.evaluate`: methods x tasks, with costs and coverage
choosing    `invjax.tune`: a setting for one measurement, without its truth
sweeps      what finished sweeps say together: tables, losses, verdicts
validating  methods against posteriors that are known
calibrating ranks of truths among the samples of those methods
"""

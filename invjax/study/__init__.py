"""Many restorations: which ones, their results on disk, and what they say.

plan       which images, methods and samples, with their keys
cells      the results of a plan on disk, one image, sample and method each
running    computes the cells that are missing
summaries  means and standard errors over images
verdict    the paper's claims, decided by paired differences
"""

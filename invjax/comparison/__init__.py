"""The same restorations by other people's code, in an environment of its own.

The scripts `*_peer.py` run in that environment. Their folder is the first place
where it looks for packages, so no module here may have the name of one.
"""

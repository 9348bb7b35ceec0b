"""Training a prior on one's own pictures.

config.py      what a run is, as one value; sizes of networks
data.py        pictures in, batches out, the same ones after an interruption
loss.py        the loss of one image
step.py        one step of the optimiser, over all devices
network.py     the network and its first parameters, new or of another prior
evaluation.py  the held-out loss, samples and restorations
page.py        what a run looks like
benchmark.py   what a step takes, beside PyTorch
loop.py        the run itself: steps, checkpoints, interruptions
"""

from invjax.training.config import PRESETS, Config
from invjax.training.loop import Outcome, train

__all__ = ['PRESETS', 'Config', 'Outcome', 'train']

"""Image restoration with diffusion priors in JAX.

    import invjax

    prior = invjax.load_prior('faces64')
    measured = invjax.measure('face.png', 'box_inpainting', size=64)
    restored = invjax.restore(measured, prior, invjax.dps(zeta=3.0))
    restored.save('restored.png')

Methods stand here by their names (`invjax.dps`, `invjax.wiener`, ...), as classes
whose values are passed on; `invjax.methods.METHODS` has them all, and
`invjax.tasks` the degradations.
"""

import importlib.metadata

from invjax import compiled
from invjax.measurement import measure
from invjax.methods import METHODS as _METHODS
from invjax.methods import Method
from invjax.operators import OPERATORS as tasks
from invjax.priors.checkpoint import load_prior
from invjax.priors.denoiser import Denoiser
from invjax.problem import Problem, from_measurement
from invjax.restoration import Restoration, restore
from invjax.study.choosing import tune
from invjax.study.evaluation import evaluate
from invjax.study.sweeping import sweep

try:
    __version__ = importlib.metadata.version('invjax')
except importlib.metadata.PackageNotFoundError:
    # The source alone, which nobody has installed.
    __version__ = '0+unknown'

compiled.keep_programs()
globals().update(_METHODS)

__all__ = [
    'Denoiser',
    'Method',
    'Problem',
    'Restoration',
    '__version__',
    'evaluate',
    'from_measurement',
    'load_prior',
    'measure',
    'restore',
    'sweep',
    'tasks',
    'tune',
    *_METHODS,
]

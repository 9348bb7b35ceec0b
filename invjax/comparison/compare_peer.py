"""deepinv's own DPS, DDRM and DiffPIR, for `comparing.py`.

Runs in an environment of its own with `torch` and `deepinv` (version 0.5).
`remote.py` asks; the field `do` of a question names one of the functions in
`_ANSWERS`, and the others are its arguments. Arrays in files are (H, W, C) in
[-1, 1]; deepinv has (1, C, H, W) in [0, 1].
"""

import time
from collections.abc import Callable

import deepinv
import numpy as np
import torch
from answers import serve
from benchmark_peer import Faces64
from deepinv.models import Denoiser, DiffUNet
from deepinv.optim.data_fidelity import L2
from deepinv.physics import (
    BlurFFT,
    DecomposablePhysics,
    GaussianNoise,
    Inpainting,
)
from deepinv.sampling import DDRM, DPS, DiffPIR


class Prior(DiffUNet):
    """deepinv's network with another one in it.

    How noise in [0, 1] units becomes a timestep, and the noise that is found
    there an image, is deepinv's own `forward_denoise`.
    """

    def __init__(self, state_dict):
        Denoiser.__init__(self)
        self.network = Faces64()
        self.network.load_state_dict(state_dict, strict=True)
        self.network.eval().requires_grad_(False)
        products = self.get_alpha_prod()
        self.sqrt_1m_alphas_cumprod, self.sqrt_alphas_cumprod = products[-2:]
        self.num_evaluations = 0

    def forward_diffusion(self, x, timesteps, y=None):
        self.num_evaluations += 1
        return self.network(x, timesteps)


_loaded: dict[str, torch.nn.Module] = {}


def load(weights):
    """Take the weights, an .npz with the names of Faces64."""
    with np.load(weights) as arrays:
        tensors = {n: torch.from_numpy(arrays[n]) for n in arrays.files}
    try:
        _loaded['prior'] = Prior(tensors)
    except RuntimeError:
        return {
            'error': '--prior must have the architecture of faces64, the '
            "peer's network."
        }
    return {'versions': {m.__name__: m.__version__ for m in (torch, deepinv)}}


def predict(x_t, t, out):
    """The noise in an image at a timestep."""
    timesteps = torch.tensor([t])
    x_t = torch.from_numpy(np.load(x_t)).movedim(-1, 0)[None]
    with torch.no_grad():
        eps = _loaded['prior'].network(x_t, timesteps)[:, :3]
    np.save(out, _image(eps))


def measure(problem, x, out):
    """A x, without noise."""
    physics, _ = _problem(problem)
    x = torch.from_numpy(np.load(x)).movedim(-1, 0)[None]
    with torch.no_grad():
        np.save(out, _image(physics.A(x)))


def restore(problem, method, num_steps, seed, settings, out):
    """Restore an image; answers how long it took and what it evaluated."""
    prior = _loaded['prior']
    physics, y = _problem(problem)
    torch.manual_seed(seed)
    model = _METHODS[method](prior, physics, num_steps, **settings)
    before = prior.num_evaluations
    start = time.perf_counter()
    x = model(y, physics)
    seconds = time.perf_counter() - start
    np.save(out, _image(2 * x - 1))
    return {
        'seconds': seconds,
        'num_evaluations': prior.num_evaluations - before,
    }


def _problem(path):
    """An operator, with its noise in [0, 1] units, and y of [0, 1] images."""
    with np.load(path) as arrays:
        parts = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    noise_std = parts['noise_std'].item() / 2
    physics = _physics(parts, noise_model=GaussianNoise(sigma=noise_std))
    ones = torch.ones(1, 3, *parts['image_shape'][:2].tolist())
    # (x + 1) / 2 is measured as (A x + A 1) / 2.
    y = (parts['y'].movedim(-1, 0)[None] + physics.A(ones)) / 2
    return physics, y


def _physics(parts, **noise):
    height, width, channels = parts['image_shape'].tolist()
    size = (channels, height, width)
    if 'mask' in parts:
        mask = parts['mask'].movedim(-1, 0).expand(size).contiguous()
        return Inpainting(size, mask=mask, **noise)
    if 'kernel' in parts:
        return BlurFFT(size, filter=parts['kernel'][None, None], **noise)
    rows_left, rows_right = parts['rows_left'], parts['rows_right']
    columns_left, columns_right = parts['columns_left'], parts['columns_right']
    h, w = len(rows_left), len(columns_left)

    def u_adjoint(y):
        coefficients = rows_left.T @ y @ columns_left
        padding = (0, width - w, 0, height - h)
        return torch.nn.functional.pad(coefficients, padding)

    singular = torch.outer(parts['rows_singular'], parts['columns_singular'])
    return DecomposablePhysics(
        U=lambda c: rows_left @ c[..., :h, :w] @ columns_left.T,
        U_adjoint=u_adjoint,
        V=lambda c: rows_right @ c @ columns_right.T,
        V_adjoint=lambda x: rows_right.T @ x @ columns_right,
        mask=singular.expand(1, *size).contiguous(),
        **noise,
    )


def _image(x):
    return x[0].movedim(0, -1).to(torch.float32).numpy()


def _dps(prior, physics, num_steps, **settings):
    rng = torch.Generator().manual_seed(torch.initial_seed())
    # It is given times, and evaluates the network between two of them.
    return DPS(prior, num_steps=num_steps + 1, rng=rng, **settings)


def _ddrm(prior, physics, num_steps, sigmas='default', **settings):
    """With deepinv's noise levels for that many steps, or the timesteps'.

    `timesteps` spreads steps as the authors of DDRM do, from t = 999 to 0.
    """
    if sigmas == 'default':
        levels = np.linspace(1, 0, num_steps)
    else:
        t = np.linspace(999, 0, num_steps).round().astype(int)
        signal = prior.sqrt_alphas_cumprod.numpy()[t].astype(np.float64)
        levels = np.sqrt(1 / signal**2 - 1) / 2
    return DDRM(prior, sigmas=levels, **settings)


def _diffpir(prior, physics, num_steps, **settings):
    sigma = physics.noise_model.sigma.item()
    return DiffPIR(prior, L2(), sigma=sigma, max_iter=num_steps, **settings)


_METHODS = {'dps': _dps, 'ddrm': _ddrm, 'diffpir': _diffpir}
_ANSWERS: dict[str, Callable] = {
    'load': load,
    'predict': predict,
    'measure': measure,
    'restore': restore,
}


def _answer(question):
    return _ANSWERS[question.pop('do')](**question)


if __name__ == '__main__':
    serve(_answer)

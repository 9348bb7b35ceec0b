"""Few steps by a Wiener filter with the spectrum of natural images.

Around Tweedie's estimate x_0 is taken to be normal, its mean given y too takes
the estimate's place, and noise that is mostly fresh goes on top, as in DiffPIR:

    z   = x0_hat + C_t A^T (A C_t A^T + sigma^2 I)^{-1} (y - A x0_hat),
    C_t = (S^{-1} + alpha_bar_t / (1 - alpha_bar_t) I)^{-1},
    eps = (x_t - sqrt(alpha_bar_t) z) / sqrt(1 - alpha_bar_t),
    x_s = sqrt(alpha_bar_s) z
          + sqrt(1 - alpha_bar_s) (sqrt(1 - mix) eps + sqrt(mix) n).

S is the covariance of clean images, diagonal in the cosine basis, and C_t that
of x_0 given x_t if they were normal. No paper has it in this form. A covariance
from the cosine basis that goes from level to level as C_t^{-1} does is the start
of 'Free Hunch' (Rissanen et al., ICLR 2025); its low-rank updates from what the
trajectory shows, which changed no PSNR by more than 0.03 dB at 20 steps, and its
pass back through the network are left out. A correction by the covariance in
place of the network's Jacobian is type II of Peng et al. (ICML 2024).

On a normal prior of covariance S, z is E[x_0 | x_t, y]. With mix = 1 no step
inherits the errors of the one before; what comes out is then nearer to the mean
of the posterior than to a sample of it.

S follows a power law in the frequency f, in cycles an image, for each channel of
a cosine basis over the channels, which for RGB are light, red minus blue, and
green against both:

    S(f) = H W C a (1 + (f / f_0)^2)^{-p}.

It is a statistic of faces, but scale and slope are those of most photographs.
"""

import jax
import jax.numpy as jnp
import numpy as np

from invjax import consistency
from invjax.methods.base import Method, observe, renoise
from invjax.settings import Number, fraction, positive
from invjax.types import LinearOperator

# Fitted to the 64 x 64 faces that `faces64` was trained on (3,000 of them, less
# their mean): least squares on the logarithm of the variance of each cosine
# coefficient, with the weight 1 / f^2, so that octaves count alike.
_POWER = np.array([0.028, 0.0018, 0.0003])
_CORNER = np.array([0.83, 1.21, 0.91])
_EXPONENT = np.array([1.43, 1.95, 1.62])
# Of conjugate gradients. More hardly move the estimate, which is approximate.
_MAX_STEPS = 30


def image_variances(image_shape: tuple[int, int, int]) -> np.ndarray:
    """The diagonal of S: variances in the cosine basis, (H, W, C) float64.

    The basis is that of the orthonormal DCT-II over all three axes. Channels
    beyond the third have the variances of the third.
    """
    height, width, num_channels = image_shape
    # A cosine of index k has k / 2 cycles.
    rows = np.arange(height)[:, None, None] / 2
    columns = np.arange(width)[:, None] / 2
    kind = np.minimum(np.arange(num_channels), len(_POWER) - 1)
    squared = (rows**2 + columns**2) / _CORNER[kind] ** 2
    return (
        np.prod(image_shape) * _POWER[kind] * (1 + squared) ** -_EXPONENT[kind]
    )


class Wiener(Method):
    """The mean of x_0 given x_t and y, with C_t for its covariance.

    Attributes:
        mix: () fraction of fresh noise, 0 to 1. May be traced, as the next.
        spread: () factor of the standard deviation of clean images, above 0.
        transition: of it, only `clip` is read; the step is the method's own.
    """

    name = 'wiener'
    needs = LinearOperator
    has_own_step = True

    mix: Number = fraction(1.0)
    spread: Number = positive(1.0)

    def update(self, key, x_t, state, step, problem, prior):
        prediction = prior(x_t, step.t)
        x0_hat = self.transition.estimate(x_t, prediction, step)
        clean = self.spread**2 * jnp.asarray(
            image_variances(x_t.shape), jnp.float32
        )
        variances = 1 / (1 / clean + step.alpha_bar_t / step.noise_var_t)

        def covariance(x):
            coefficients = variances * jax.scipy.fft.dctn(x, norm='ortho')
            return jax.scipy.fft.idctn(coefficients, norm='ortho')

        solved = consistency.solve_nearest(
            problem, x0_hat, covariance, max_steps=_MAX_STEPS
        )
        z = solved.x
        if self.transition.clip:
            z = jnp.clip(z, -1, 1)
        noise = jax.random.normal(key, x_t.shape)
        x_s, plain = (
            renoise(x_t, x_0, step, self.mix, noise) for x_0 in (z, x0_hat)
        )
        info = observe(x_t, x0_hat, plain, x_s - plain, problem)
        info = info._replace(solver_residual=solved.relative_residual)
        return x_s, state, info

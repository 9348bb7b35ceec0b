"""A heavy-tailed prior: independent Student-t coefficients in a basis.

An image is x_0 = mu + U c with orthonormal U, and each coefficient is a scale
mixture of Gaussians (Andrews and Mallows, 1974),

    c_i | lambda_i ~ N(0, scale_i^2 / lambda_i),
    lambda_i ~ Gamma(nu / 2, rate nu / 2),

which makes c_i / scale_i Student-t with nu degrees of freedom. Diffusion leaves
the coefficients independent, and each one a mixture over lambda,

    p_t(c) = int N(c; 0, alpha_bar_t scale^2 / lambda + 1 - alpha_bar_t) p(lambda),

so the noise prediction is a one-dimensional integral. In u = log lambda its
integrand falls off at both ends, where the trapezoidal rule converges faster
than any power of its step (Trefethen and Weideman, 2014).

Given y = A x_0 + noise_std n the posterior has no closed form, but both its
conditionals have: c given lambda is Gaussian, and each lambda_i given c is

    lambda_i | c_i ~ Gamma((nu + 1) / 2, rate (nu + c_i^2 / scale_i^2) / 2).

Drawing one after the other is a Gibbs sampler of it (Geweke, 1993).
"""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np

from invjax.diffusion import Prediction
from invjax.priors import gaussian

# Where the density of log lambda is below 1e-9 of its largest value, e^-21, it
# is left out; in between 40 nodes are two thirds of a unit apart at most.
_LEFT_OUT, _NUM_NODES = 21.0, 40
# What is not measured has the slowest chain: a squared coefficient forgets its
# start by a factor nu - 1 a sweep. Four are kept apart, and eight are dropped.
_SWEEPS_APART, _SWEEPS_DROPPED = 4, 8
_NUM_CHAINS, _DRAWS_OF_CHAIN = 500, 20


@flax.struct.dataclass
class StudentTPrior:
    """Independent Student-t coefficients in an orthonormal basis, as a prior.

    Attributes:
        mean: (H, W, C) mu, in [-1, 1] units.
        basis: (D, D) U, orthonormal columns.
        scales: (D,) of the coefficients, above 0; their variances are
            scales^2 nu / (nu - 2).
        degrees: () nu, above 2.
        log_weights: (K,) of the values of lambda, logarithms of a sum of 1.
        precisions: (K,) values of lambda.
        alpha_bar: (T,) signal power, float64 on the host.
        noise_var: (T,) 1 - alpha_bar, subtracted in float64.
    """

    mean: jax.Array
    basis: jax.Array
    scales: jax.Array
    degrees: jax.Array
    log_weights: jax.Array
    precisions: jax.Array
    alpha_bar: np.ndarray
    noise_var: jax.Array

    @classmethod
    def from_basis(
        cls,
        mean: np.ndarray,
        basis: np.ndarray,
        variances: np.ndarray,
        degrees: float,
        alpha_bar: np.ndarray,
    ) -> 'StudentTPrior':
        """Make the prior from the variances of its coefficients.

        Args:
            mean: (H, W, C) mu.
            basis: (D, D) U, orthonormal columns.
            variances: (D,) of the coefficients, above 0.
            degrees: () nu, from 2.1, since with 2 there is no variance, to
                1000, where it can hardly be told from a Gaussian.
            alpha_bar: (T,) signal power, best in float64.

        Raises:
            ValueError: a shape does not fit, the basis is not orthonormal, or a
                number is out of its range.
        """
        if not 2.1 <= degrees <= 1000:
            raise ValueError(
                f'degrees must be from 2.1 to 1000, got {degrees}.'
            )
        variances = np.asarray(variances, np.float64)
        if variances.shape != (np.size(mean),) or not np.all(variances > 0):
            raise ValueError(
                f'variances must be {np.size(mean)} numbers above 0, got shape '
                f'{variances.shape} and {np.min(variances, initial=np.inf)} as '
                'the least.'
            )
        # The Gaussian of the same moments has the same demands on the others.
        like = gaussian.GaussianPrior.from_eigenvectors(
            mean, basis, variances, alpha_bar
        )
        log_weights, precisions = _nodes(degrees)
        scales = np.sqrt(variances * (degrees - 2) / degrees)
        return cls(
            mean=like.mean,
            basis=like.eigenvectors,
            scales=jnp.asarray(scales, jnp.float32),
            degrees=jnp.asarray(degrees, jnp.float32),
            log_weights=jnp.asarray(log_weights, jnp.float32),
            precisions=jnp.asarray(precisions, jnp.float32),
            alpha_bar=like.alpha_bar,
            noise_var=like.noise_var,
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width, channels = self.mean.shape
        return height, width, channels

    def __call__(self, x_t: jax.Array, t: jax.typing.ArrayLike) -> Prediction:
        """Predict the noise in x_t, exactly but for the integral.

        Args:
            x_t: (H, W, C) noisy image.
            t: () training timestep from 0 to T - 1; a float is rounded.

        Returns:
            eps, (H, W, C). There is no learned variance.
        """
        coefficients, variances, log_joint = self._nodes_at(x_t, t)
        _, noise_var_t = gaussian.at_time(self, t)
        responsibilities = jax.nn.softmax(log_joint, axis=-1)
        eps = coefficients * jnp.sum(responsibilities / variances, axis=-1)
        return Prediction(jnp.sqrt(noise_var_t) * self._image(eps))

    def log_density(self, x_t: jax.Array, t: jax.typing.ArrayLike) -> jax.Array:
        """Give log p_t(x_t), () in nats, for x_t (H, W, C) at timestep t."""
        *_, log_joint = self._nodes_at(x_t, t)
        return jnp.sum(jax.nn.logsumexp(log_joint, axis=-1))

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw one clean image x_0, (H, W, C)."""
        drawn = jax.random.t(key, self.degrees, self.scales.shape)
        return self.mean + self._image(self.scales * drawn)

    def _nodes_at(self, x_t, t):
        """Coefficients (D,), variances (D, K), log(weight_k p(c | k)) (D, K)."""
        alpha_bar_t, noise_var_t = gaussian.at_time(self, t)
        deviation = (x_t - jnp.sqrt(alpha_bar_t) * self.mean).ravel()
        highest = jax.lax.Precision.HIGHEST
        coefficients = jnp.matmul(self.basis.T, deviation, precision=highest)
        clean = self.scales[:, None] ** 2 / self.precisions
        variances = alpha_bar_t * clean + noise_var_t
        log_densities = -0.5 * (
            coefficients[:, None] ** 2 / variances
            + jnp.log(2 * jnp.pi * variances)
        )
        return coefficients, variances, self.log_weights + log_densities

    def _image(self, coefficients):
        highest = jax.lax.Precision.HIGHEST
        flat = jnp.matmul(self.basis, coefficients, precision=highest)
        return flat.reshape(self.mean.shape)


def _nodes(degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of weights, (K,), and values of lambda, (K,), in float64.

    The density of u = log lambda is proportional to exp(nu / 2 (u - e^u)), with
    its largest value at u = 0.
    """
    ratio = 2 * _LEFT_OUT / degrees
    # Newton's method for u - e^u + 1 = -ratio, from beyond either end, where
    # the function is concave and comes down to it without a step too far.
    ends = np.array([-ratio - 1, np.log1p(ratio) + 1])
    for _ in range(50):
        ends -= (ends - np.exp(ends) + 1 + ratio) / (1 - np.exp(ends))
    low, high = ends
    u = np.linspace(low, high, _NUM_NODES)
    log_density = degrees / 2 * (u - np.expm1(u))
    return log_density - np.log(np.sum(np.exp(log_density))), np.exp(u)


def gibbs(
    rng: np.random.Generator,
    prior: StudentTPrior,
    matrix: np.ndarray,
    y: np.ndarray,
    noise_std: float,
    num_draws: int,
) -> np.ndarray:
    """Draw from p(x_0 | y) for y = A x_0 + noise_std n, in float64.

    Each chain starts at an independent draw of the prior's lambda, drops eight
    sweeps, and keeps every fourth of those that follow. A sweep needs the
    system of the M measured numbers alone (Bhattacharya et al., 2016).

    Args:
        rng: of all that is random.
        prior: p(x_0).
        matrix: (M, D) A; `gaussian.dense_matrix` makes it from an operator.
        y: (N, M) measurements, one for each chain; they may be the same.
        noise_std: () above 0, in [-1, 1] units.
        num_draws: of each chain.

    Returns:
        (N, num_draws, H, W, C).

    Raises:
        ValueError: a shape does not fit, or noise_std is not positive.
    """
    if noise_std <= 0:
        raise ValueError(
            'the Gibbs sampler needs noise_std above 0, since without noise its '
            f'linear systems may be singular; got {noise_std}; a small value '
            'such as 1e-3 comes close.'
        )
    y = np.asarray(y, np.float64)
    if y.ndim != 2 or y.shape[1] != len(matrix):
        raise ValueError(
            f'y must be (N, {len(matrix)}), a number for each row of the matrix, '
            f'got {y.shape}.'
        )
    mean = np.asarray(prior.mean, np.float64)
    basis = np.asarray(prior.basis, np.float64)
    scales = np.asarray(prior.scales, np.float64)
    degrees = float(prior.degrees)
    measured = matrix @ basis
    surprise = y - matrix @ mean.ravel()
    noise_variance = noise_std**2 * np.eye(len(matrix))
    shape = (len(y), len(scales))
    precisions = rng.gamma(degrees / 2, 2 / degrees, shape)
    kept = []
    for sweep in range(_SWEEPS_DROPPED + num_draws * _SWEEPS_APART):
        variances = scales**2 / precisions
        # A draw of c and y from their joint distribution given lambda, moved
        # by what the y that was seen differs from it.
        drawn = np.sqrt(variances) * rng.standard_normal(shape)
        noise = noise_std * rng.standard_normal(y.shape)
        differs = surprise - drawn @ measured.T - noise
        system = (measured * variances[:, None]) @ measured.T + noise_variance
        solved = np.linalg.solve(system, differs[..., None])[..., 0]
        coefficients = drawn + variances * (solved @ measured)
        rate = (degrees + (coefficients / scales) ** 2) / 2
        precisions = rng.gamma((degrees + 1) / 2, 1 / rate)
        past = sweep - _SWEEPS_DROPPED
        if past >= 0 and past % _SWEEPS_APART == _SWEEPS_APART - 1:
            kept.append(coefficients)
    images = np.stack(kept, axis=1) @ basis.T
    return mean + images.reshape(len(y), num_draws, *mean.shape)


class GibbsPosterior:
    """p(x_0 | y) by 10,000 draws of `gibbs`, made at their first use.

    Args:
        prior, matrix, noise_std: see `gibbs`.
        y: the measurement, M numbers in any shape.
    """

    def __init__(
        self,
        prior: StudentTPrior,
        matrix: np.ndarray,
        y: np.ndarray,
        noise_std: float,
    ):
        y = gaussian.flat_measurement(matrix, y)
        self._arguments = prior, matrix, np.tile(y, (_NUM_CHAINS, 1)), noise_std

    @functools.cached_property
    def draws(self) -> np.ndarray:
        """(10000, H, W, C), the same each time."""
        rng = np.random.default_rng(0)
        drawn = gibbs(rng, *self._arguments, _DRAWS_OF_CHAIN)
        return drawn.reshape(-1, *drawn.shape[2:])

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """(H, W, C), to a hundredth of the standard deviations."""
        return self.draws.mean(axis=0)

    @functools.cached_property
    def covariance(self) -> np.ndarray:
        """(D, D), to a hundredth or two of the variances."""
        return np.cov(self.draws.reshape(len(self.draws), -1).T)

    def sample(self, rng: np.random.Generator, num_samples: int) -> np.ndarray:
        """Choose from the draws, each time from all: (num_samples, H, W, C)."""
        return self.draws[rng.integers(len(self.draws), size=num_samples)]

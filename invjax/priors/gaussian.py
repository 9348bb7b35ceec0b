"""Gaussian priors, whose noise prediction and posterior have a closed form.

If x_0 ~ N(mu, Sigma), the process x_t = sqrt(alpha_bar_t) x_0 +
sqrt(1 - alpha_bar_t) eps (Ho et al., 2020, eq. 4) keeps it Gaussian,

    x_t ~ N(sqrt(alpha_bar_t) mu, S_t),
    S_t = alpha_bar_t Sigma + (1 - alpha_bar_t) I,

and the network that minimises the DDPM loss is known exactly,

    eps(x_t, t) = -sqrt(1 - alpha_bar_t) grad log p_t(x_t)
                = sqrt(1 - alpha_bar_t) S_t^{-1} (x_t - sqrt(alpha_bar_t) mu).

S_t shares Sigma's eigenvectors, so they are found once, on the host. What is
wanted of Sigma is always some f(Sigma), and the two priors here differ only in
the basis in which f acts on eigenvalues: any orthonormal vectors, or the DFT.

Given y = A x_0 + noise_std n, the posterior of x_0 is Gaussian too (Bishop,
Pattern Recognition and Machine Learning, 2006, eq. 2.113-2.117). It is worked
out in NumPy, by dense algebra in float64: a second way to the answer that
samplers are tested against. Images are flattened there to D = H * W * C numbers,
row by row, channels last.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypedDict

import flax
import jax
import jax.numpy as jnp
import numpy as np

from invjax.diffusion import Prediction

# A relative size below which a float32 computation cannot tell from zero.
_ROUNDING = 1e-6


class _Gaussian(abc.ABC):
    """What follows from f(Sigma), in whichever basis a subclass applies it.

    A subclass has the leaves `mean` (H, W, C), `alpha_bar` and `noise_var`,
    both (T,).
    """

    mean: jax.Array
    alpha_bar: np.ndarray
    noise_var: jax.Array

    @abc.abstractmethod
    def apply(self, function: Callable, x: jax.Array) -> jax.Array:
        """Map an image, (H, W, C), by f(Sigma), where f acts on eigenvalues."""

    @abc.abstractmethod
    def trace(self, function: Callable) -> jax.Array:
        """Sum f over all D eigenvalues."""

    @abc.abstractmethod
    def dense(self, function: Callable) -> np.ndarray:
        """Give f(Sigma) as a (D, D) float64 matrix."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width, channels = self.mean.shape
        return height, width, channels

    def __call__(self, x_t: jax.Array, t: jax.typing.ArrayLike) -> Prediction:
        """Predict the noise in x_t, exactly.

        Args:
            x_t: (H, W, C) noisy image.
            t: () training timestep from 0 to T - 1; a float is rounded.

        Returns:
            eps, (H, W, C). There is no learned variance.
        """
        return Prediction(eps=self.eps_and_log_density(x_t, t)[0])

    def log_density(self, x_t: jax.Array, t: jax.typing.ArrayLike) -> jax.Array:
        """Give log p_t(x_t), () in nats, for x_t (H, W, C) at timestep t."""
        return self.eps_and_log_density(x_t, t)[1]

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw one clean image x_0, (H, W, C)."""
        noise = jax.random.normal(key, self.mean.shape)
        return self.mean + self.apply(jnp.sqrt, noise)

    def covariance(self) -> np.ndarray:
        """Give Sigma as a dense (D, D) float64 matrix.

        It is as exact as the float32 leaves: 1e-7 of the largest eigenvalue.
        """
        return self.dense(lambda eigenvalues: eigenvalues)

    def eps_and_log_density(
        self, x_t: jax.Array, t: jax.typing.ArrayLike
    ) -> tuple[jax.Array, jax.Array]:
        """Give eps, (H, W, C), and log p_t(x_t), (), at timestep t."""
        alpha_bar_t, noise_var_t = at_time(self, t)

        def marginal(eigenvalues):
            return alpha_bar_t * eigenvalues + noise_var_t

        deviation = x_t - jnp.sqrt(alpha_bar_t) * self.mean
        solved = self.apply(lambda values: 1 / marginal(values), deviation)
        # deviation @ solved is the same number, but there the rounding of a
        # wide direction is divided by the variance of a narrow one.
        whitened = self.apply(
            lambda values: jax.lax.rsqrt(marginal(values)), deviation
        )
        log_determinant = self.trace(lambda values: jnp.log(marginal(values)))
        log_density = -0.5 * (
            jnp.sum(whitened**2)
            + log_determinant
            + x_t.size * jnp.log(2 * jnp.pi)
        )
        return jnp.sqrt(noise_var_t) * solved, log_density


@flax.struct.dataclass
class GaussianPrior(_Gaussian):
    """A Gaussian prior with any covariance, given by eigenvectors U.

        Sigma = U diag(eigenvalues) U^T + rest_variance (I - U U^T)

    R = D vectors give any covariance; R < D a low-rank one with a variance for
    all other directions (probabilistic PCA); R = 0 an isotropic one.

    Attributes:
        mean: (H, W, C) mu, in [-1, 1] units.
        eigenvectors: (D, R) U, orthonormal columns.
        eigenvalues: (R,) variances along the columns, not negative.
        rest_variance: () variance in the directions that U leaves out. If
            R = D there are none but rounding's; the constructors then take the
            largest eigenvalue, as a small one would amplify it a hundredfold.
        alpha_bar: (T,) signal power, float64 on the host, where
            `schedule.reverse_steps` needs all its digits.
        noise_var: (T,) 1 - alpha_bar, subtracted in float64: in float32 the
            first entries would keep only three digits.
    """

    mean: jax.Array
    eigenvectors: jax.Array
    eigenvalues: jax.Array
    rest_variance: jax.Array
    alpha_bar: np.ndarray
    noise_var: jax.Array

    @classmethod
    def from_eigenvectors(
        cls,
        mean: np.ndarray,
        eigenvectors: np.ndarray,
        eigenvalues: np.ndarray,
        alpha_bar: np.ndarray,
        rest_variance: float = 0.0,
    ) -> 'GaussianPrior':
        """Make the prior from the fields that the class documents.

        Raises:
            ValueError: a shape does not fit, the eigenvectors are not
                orthonormal, a variance is negative, or alpha_bar leaves (0, 1).
        """
        mean = _check_image(mean)
        eigenvectors = np.asarray(eigenvectors, np.float64)
        eigenvalues = np.asarray(eigenvalues, np.float64)
        expected_shape = (mean.size, eigenvalues.size)
        if eigenvectors.shape != expected_shape or eigenvalues.ndim != 1:
            raise ValueError(
                f'eigenvectors must be (D, R) and eigenvalues (R,) with '
                f'D = {mean.size}, got {eigenvectors.shape} and '
                f'{eigenvalues.shape}.'
            )
        gram = eigenvectors.T @ eigenvectors
        if not np.allclose(gram, np.eye(eigenvalues.size), atol=1e-5):
            raise ValueError(
                'eigenvectors must be orthonormal columns, got columns whose '
                f'products are off by {_largest(gram - np.eye(len(gram))):.2g}.'
            )
        least_variance = min([*eigenvalues, rest_variance])
        if least_variance < 0:
            raise ValueError(
                'eigenvalues and rest_variance must not be negative, got '
                f'{least_variance:.3g}.'
            )
        if eigenvalues.size == mean.size:
            rest_variance = np.max(eigenvalues)
        return cls(
            mean=jnp.asarray(mean, jnp.float32),
            eigenvectors=jnp.asarray(eigenvectors, jnp.float32),
            eigenvalues=jnp.asarray(eigenvalues, jnp.float32),
            rest_variance=jnp.asarray(rest_variance, jnp.float32),
            **_schedule(alpha_bar),
        )

    @classmethod
    def from_covariance(
        cls, mean: np.ndarray, covariance: np.ndarray, alpha_bar: np.ndarray
    ) -> 'GaussianPrior':
        """Make the prior from a dense covariance, by `eigh` in float64.

        Args:
            mean: (H, W, C) mu.
            covariance: (D, D) Sigma, which may be singular.
            alpha_bar: (T,) signal power, best in float64.

        Raises:
            ValueError: a shape does not fit, or the covariance is not
                symmetric and positive semi-definite.
        """
        mean = _check_image(mean)
        covariance = np.asarray(covariance, np.float64)
        if covariance.shape != (mean.size, mean.size):
            raise ValueError(
                f'covariance must be (D, D) with D = {mean.size}, got '
                f'{covariance.shape}.'
            )
        asymmetry = _largest(covariance - covariance.T)
        if asymmetry > _ROUNDING * _largest(covariance):
            raise ValueError(
                'covariance must be symmetric, got entries that differ from '
                f'their mirror image by up to {asymmetry:.2g}.'
            )
        eigenvalues, eigenvectors = np.linalg.eigh(covariance)
        return cls.from_eigenvectors(
            mean, eigenvectors, _check_spectrum(eigenvalues), alpha_bar
        )

    @classmethod
    def isotropic(
        cls, mean: np.ndarray, variance: float, alpha_bar: np.ndarray
    ) -> 'GaussianPrior':
        """Make the prior N(mean, variance I), which needs no eigenvectors."""
        eigenvectors = np.zeros((np.size(mean), 0))
        return cls.from_eigenvectors(
            mean, eigenvectors, np.zeros(0), alpha_bar, variance
        )

    def apply(self, function: Callable, x: jax.Array) -> jax.Array:
        """Map an image, (H, W, C), by f(Sigma), where f acts on eigenvalues."""
        # An accelerator's default product has three digits (TF32), too few
        # when the smallest variances are divided by.
        vectors, highest = self.eigenvectors, jax.lax.Precision.HIGHEST
        coordinates = jnp.matmul(vectors.T, x.ravel(), precision=highest)
        gains = function(self.eigenvalues) * coordinates
        inside = jnp.matmul(
            vectors, jnp.stack([gains, coordinates], -1), precision=highest
        )
        rest = x.ravel() - inside[:, 1]
        mapped = inside[:, 0] + function(self.rest_variance) * rest
        return mapped.reshape(x.shape)

    def trace(self, function: Callable) -> jax.Array:
        """Sum f over all D eigenvalues."""
        num_dimensions, num_vectors = self.eigenvectors.shape
        num_rest = num_dimensions - num_vectors
        rest = num_rest * function(self.rest_variance)
        return jnp.sum(function(self.eigenvalues)) + rest

    def dense(self, function: Callable) -> np.ndarray:
        """Give f(Sigma) as a (D, D) float64 matrix."""
        vectors = np.asarray(self.eigenvectors, np.float64)
        gains = function(np.asarray(self.eigenvalues, np.float64))
        rest = function(np.asarray(self.rest_variance, np.float64))
        outside = np.eye(len(vectors)) - vectors @ vectors.T
        return (vectors * gains) @ vectors.T + rest * outside


@flax.struct.dataclass
class StationaryGaussianPrior(_Gaussian):
    """A Gaussian prior whose covariance depends on offsets alone.

        Cov(x[i, j, c], x[k, l, c]) = kernel[(i - k) % H, (j - l) % W, c]

    Channels are independent and borders wrap around, so Sigma is diagonal in
    the 2-D DFT of each channel and its eigenvalues are the DFT of the kernel.

    Attributes:
        mean: (H, W, C) mu, in [-1, 1] units.
        spectrum: (H, W, C) eigenvalues, not negative, in the DFT's order.
        alpha_bar: (T,) signal power, float64 on the host.
        noise_var: (T,) 1 - alpha_bar, subtracted in float64.
    """

    mean: jax.Array
    spectrum: jax.Array
    alpha_bar: np.ndarray
    noise_var: jax.Array

    @classmethod
    def from_kernel(
        cls, mean: np.ndarray, kernel: np.ndarray, alpha_bar: np.ndarray
    ) -> 'StationaryGaussianPrior':
        """Make the prior from its covariance kernel.

        Args:
            mean: (H, W, C) mu.
            kernel: (H, W), the same for all channels, or (H, W, C). The
                variance is at [0, 0], where `np.fft.ifftshift` puts a centre.
            alpha_bar: (T,) signal power, best in float64.

        Raises:
            ValueError: a shape does not fit, or the kernel is no covariance:
                it is not even, or its spectrum is negative somewhere.
        """
        mean = _check_image(mean)
        kernel = np.asarray(kernel, np.float64)
        if kernel.shape not in (mean.shape, mean.shape[:2]):
            raise ValueError(
                f'kernel must be {mean.shape[:2]} or {mean.shape}, as the mean '
                f'is, got {kernel.shape}.'
            )
        spectrum = np.fft.fft2(kernel, axes=(0, 1))
        if _largest(spectrum.imag) > _ROUNDING * _largest(spectrum):
            raise ValueError(
                'kernel must be even, kernel[-i, -j] = kernel[i, j] with the '
                'variance at [0, 0]; centred kernels need np.fft.ifftshift.'
            )
        spectrum = _check_spectrum(spectrum.real)
        if spectrum.ndim == 2:
            spectrum = spectrum[:, :, None]
        return cls(
            mean=jnp.asarray(mean, jnp.float32),
            spectrum=jnp.asarray(
                np.broadcast_to(spectrum, mean.shape), jnp.float32
            ),
            **_schedule(alpha_bar),
        )

    def apply(self, function: Callable, x: jax.Array) -> jax.Array:
        """Map an image, (H, W, C), by f(Sigma), where f acts on eigenvalues."""
        waves = function(self.spectrum) * jnp.fft.fft2(x, axes=(0, 1))
        return jnp.fft.ifft2(waves, axes=(0, 1)).real

    def trace(self, function: Callable) -> jax.Array:
        """Sum f over all D eigenvalues."""
        return jnp.sum(function(self.spectrum))

    def dense(self, function: Callable) -> np.ndarray:
        """Give f(Sigma) as a (D, D) float64 matrix."""
        gains = function(np.asarray(self.spectrum, np.float64))
        units = np.eye(gains.size).reshape(-1, *gains.shape)
        waves = gains * np.fft.fft2(units, axes=(1, 2))
        rows = np.fft.ifft2(waves, axes=(1, 2)).real
        return rows.reshape(gains.size, gains.size)


class ClosedFormPrior(Protocol):
    """Any prior of this room, for `likelihood_score`: it knows its schedule."""

    alpha_bar: np.ndarray
    noise_var: jax.Array

    def __call__(
        self, x_t: jax.Array, t: jax.typing.ArrayLike
    ) -> Prediction: ...


class Posterior(NamedTuple):
    """A Gaussian over images, in float64: x_0 given a measurement.

    To sample it by diffusion, make it a prior of its own:
    `GaussianPrior.from_covariance(mean, covariance, alpha_bar)`.
    """

    mean: np.ndarray  # (H, W, C)
    factor: np.ndarray  # (D, D) F, with covariance F F^T

    @property
    def covariance(self) -> np.ndarray:
        """The (D, D) covariance; singular where the measurement is noiseless."""
        return self.factor @ self.factor.T

    def sample(self, rng: np.random.Generator, num_samples: int) -> np.ndarray:
        """Draw images, (num_samples, H, W, C)."""
        noise = rng.standard_normal((num_samples, len(self.factor)))
        deviations = noise @ self.factor.T
        return self.mean + deviations.reshape(num_samples, *self.mean.shape)


def gaussian_posterior(
    prior: GaussianPrior | StationaryGaussianPrior,
    matrix: np.ndarray,
    y: np.ndarray,
    noise_std: float,
) -> Posterior:
    """Give p(x_0 | y) for y = A x_0 + noise_std n, in float64.

    Args:
        prior: p(x_0).
        matrix: (M, D) A; `dense_matrix` makes it from an operator.
        y: the measurement, M numbers in any shape.
        noise_std: () in [-1, 1] units. With 0, what is measured is known
            exactly, and of a y that no image measures to, the nearest
            measurement counts.

    Raises:
        ValueError: a shape does not fit, or noise_std is negative.
    """
    gain, factor = _condition(prior, matrix, noise_std)
    mean = np.asarray(prior.mean, np.float64)
    surprise = flat_measurement(matrix, y) - matrix @ mean.ravel()
    return Posterior(
        mean=mean + (gain @ surprise).reshape(mean.shape), factor=factor
    )


@flax.struct.dataclass
class GaussianLikelihood:
    """What y = A x_0 + noise_std n says of x_t under a Gaussian prior, in JAX.

    The posterior covariance does not depend on y, so all dense algebra is done
    once; y may then be traced.

    Attributes:
        prior: p(x_0).
        expected_y: (M,) A mu.
        gain: (D, M) how far the mean moves for each unit of surprise in y.
        posterior: p(x_0 | y = A mu), whose mean is still mu.
    """

    prior: GaussianPrior | StationaryGaussianPrior
    expected_y: jax.Array
    gain: jax.Array
    posterior: GaussianPrior

    @classmethod
    def from_matrix(
        cls,
        prior: GaussianPrior | StationaryGaussianPrior,
        matrix: np.ndarray,
        noise_std: float,
    ) -> 'GaussianLikelihood':
        """Precompute it; arguments and errors as for `gaussian_posterior`."""
        gain, factor = _condition(prior, matrix, noise_std)
        # F = V diag(sqrt(eigenvalues)) W^T gives the eigenvectors of F F^T
        # with twice the digits of an eigh.
        eigenvectors, roots, _ = np.linalg.svd(factor)
        posterior = GaussianPrior(
            mean=prior.mean,
            eigenvectors=jnp.asarray(eigenvectors, jnp.float32),
            eigenvalues=jnp.asarray(roots**2, jnp.float32),
            rest_variance=jnp.asarray(roots[0] ** 2, jnp.float32),
            alpha_bar=prior.alpha_bar,
            noise_var=prior.noise_var,
        )
        expected_y = matrix @ np.asarray(prior.mean, np.float64).ravel()
        return cls(
            prior=prior,
            expected_y=jnp.asarray(expected_y, jnp.float32),
            gain=jnp.asarray(gain, jnp.float32),
            posterior=posterior,
        )

    def given(self, y: jax.Array) -> GaussianPrior:
        """Give p(x_0 | y) as a prior: sampling it is exact guidance by y."""
        surprise = y.ravel() - self.expected_y
        shift = jnp.matmul(
            self.gain, surprise, precision=jax.lax.Precision.HIGHEST
        )
        mean = self.prior.mean + shift.reshape(self.prior.mean.shape)
        return dataclasses.replace(self.posterior, mean=mean)

    def score(
        self, x_t: jax.Array, t: jax.typing.ArrayLike, y: jax.Array
    ) -> jax.Array:
        """Give grad_{x_t} log p(y | x_t), (H, W, C), exactly."""
        return likelihood_score(self.prior, self.given(y), x_t, t)


def likelihood_score(
    prior: ClosedFormPrior,
    posterior: ClosedFormPrior,
    x_t: jax.Array,
    t: jax.typing.ArrayLike,
) -> jax.Array:
    """Give grad_{x_t} log p(y | x_t), exactly, by Bayes' rule.

        log p(y | x_t) = log p(x_t | y) - log p(x_t) + log p(y)

    Unlike the direct formula it solves nothing with A C_t A^T + noise_std^2 I,
    which float32 cannot when there is little noise.

    Args:
        prior: p(x_0), any prior of this room.
        posterior: p(x_0 | y) as a prior on the same schedule.
        x_t: (H, W, C) noisy image.
        t: () timestep from 0 to T - 1.

    Returns:
        (H, W, C) score; times -sqrt(1 - alpha_bar_t) it is what to add to eps.
    """
    _, noise_var_t = at_time(prior, t)
    difference = prior(x_t, t).eps - posterior(x_t, t).eps
    return difference / jnp.sqrt(noise_var_t)


def dense_matrix(
    forward: Callable[[jax.Array], jax.Array], shape: tuple[int, int, int]
) -> np.ndarray:
    """Write a linear operator as a matrix, a column for each unit image.

    Args:
        forward: maps an image, (H, W, C), to a measurement of any shape.
        shape: (H, W, C).

    Returns:
        (M, D) float64 A, with A x.ravel() = forward(x).ravel().

    Raises:
        ValueError: forward is not linear.
    """

    def flat_forward(x):
        return forward(x.reshape(shape)).ravel()

    num_pixels = int(np.prod(shape))
    # Otherwise an accelerator convolves with three digits (TF32).
    with jax.default_matmul_precision('highest'):
        columns = jax.lax.map(flat_forward, jnp.eye(num_pixels), batch_size=64)
        matrix = np.asarray(columns, np.float64).T
        probe = np.random.default_rng(0).uniform(-1, 1, num_pixels)
        probed = flat_forward(jnp.asarray(probe, jnp.float32))
    difference = _largest(matrix @ probe - probed)
    if not difference <= 1e-4 * max(_largest(probed), _largest(matrix)):
        raise ValueError(
            'forward must be linear, got one whose value differs from the sum '
            f'of its values at the unit images by {difference:.2g}.'
        )
    return matrix


def at_time(
    prior: ClosedFormPrior, t: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Look up alpha_bar_t and 1 - alpha_bar_t, each ()."""
    row = jnp.round(t).astype(jnp.int32)
    alpha_bar = jnp.asarray(prior.alpha_bar, jnp.float32)
    return alpha_bar[row], prior.noise_var[row]


def flat_measurement(matrix: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Give y as (M,) float64, or refuse one that A cannot have made."""
    y = np.asarray(y, np.float64)
    if y.size != len(matrix):
        raise ValueError(
            f'y must have {len(matrix)} numbers, one for each row of the '
            f'matrix, got shape {y.shape}.'
        )
    return y.ravel()


def _condition(prior, matrix, noise_std):
    """Give what of the posterior does not depend on y.

    Whitened by Sigma^{1/2}, the unknown is z ~ N(0, I), and the SVD
    A Sigma^{1/2} = P diag(s) Q^T leaves one number measured at a time: the mean
    of Q^T z is s / (s^2 + noise_std^2) times P^T (y - A mu), its variance
    noise_std^2 / (s^2 + noise_std^2). Nothing is subtracted, so the covariance
    cannot turn indefinite.

    Returns:
        gain (D, M), with posterior mean mu + gain (y - A mu), and factor
        (D, D), with posterior covariance factor factor^T.
    """
    if noise_std < 0:
        raise ValueError(f'noise_std must not be negative, got {noise_std}.')
    root = prior.dense(np.sqrt)
    if np.ndim(matrix) != 2 or matrix.shape[1] != len(root):
        raise ValueError(
            f'matrix must be (M, D) with D = {len(root)}, got '
            f'{np.shape(matrix)}.'
        )
    left, s, right = np.linalg.svd(matrix @ root)
    # An operator computed in float32 has no exact zeros. Without noise its
    # rounding errors would count as perfect measurements.
    seen = s > _ROUNDING * max(_largest(s), float(np.finfo(np.float32).tiny))
    power = s**2 + noise_std**2
    shrinkage = np.divide(s, power, out=np.zeros_like(s), where=seen)
    gain = root @ (right[: s.size].T * shrinkage) @ left.T[: s.size]
    kept_std = np.ones(len(root))
    np.divide(noise_std, np.sqrt(power), out=kept_std[: s.size], where=seen)
    return gain, root @ (right.T * kept_std)


class _Schedule(TypedDict):
    alpha_bar: np.ndarray
    noise_var: jax.Array


def _schedule(alpha_bar: np.ndarray) -> _Schedule:
    """Give the two leaves that every closed-form prior keeps of a schedule."""
    alpha_bar = np.asarray(alpha_bar, np.float64)
    if alpha_bar.ndim != 1 or not np.all((alpha_bar > 0) & (alpha_bar < 1)):
        raise ValueError(
            'alpha_bar must be (T,) with values between 0 and 1, got shape '
            f'{alpha_bar.shape} and values from {np.min(alpha_bar)} to '
            f'{np.max(alpha_bar)}.'
        )
    return {
        'alpha_bar': alpha_bar,
        'noise_var': jnp.asarray(1 - alpha_bar, jnp.float32),
    }


def _check_image(mean: np.ndarray) -> np.ndarray:
    """Give the mean as float64, or refuse what is no (H, W, C)."""
    mean = np.asarray(mean, np.float64)
    if mean.ndim != 3:
        raise ValueError(f'mean must be (H, W, C), got shape {mean.shape}.')
    return mean


def _check_spectrum(eigenvalues: np.ndarray) -> np.ndarray:
    """Lift what rounding made negative to 0, or refuse what is truly so."""
    if np.min(eigenvalues) < -_ROUNDING * _largest(eigenvalues):
        raise ValueError(
            'a covariance has no negative eigenvalues, got a spectrum from '
            f'{np.min(eigenvalues):.3g} to {np.max(eigenvalues):.3g}.'
        )
    return np.maximum(eigenvalues, 0.0)


def _largest(x: np.ndarray) -> float:
    """The largest absolute value, 0 for an empty array."""
    return float(np.max(np.abs(x), initial=0.0))

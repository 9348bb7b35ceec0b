"""Gaussian-mixture priors: several modes, and still everything in closed form.

    p(x_0) = sum_k weights_k N(mu_k, Sigma_k)

Diffusion acts on every component alone (`gaussian.py`), and the score of a
sum is the components' scores weighted by how likely each one made x_t,

    eps(x_t, t) = sum_k r_k(x_t) eps_k(x_t, t),
    r = softmax_k(log weights_k + log p_{t,k}(x_t)).

Given y = A x_0 + noise_std n the posterior is a mixture again: each component
becomes its own posterior, and its weight is multiplied by its evidence

    p(y | k) = N(y; A mu_k, A Sigma_k A^T + noise_std^2 I).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np

from invjax.diffusion import Prediction
from invjax.priors import gaussian


@flax.struct.dataclass
class MixturePrior:
    """A mixture of K Gaussians as a prior.

    Attributes:
        log_weights: (K,) logarithms of weights that sum to 1.
        components: one Gaussian prior whose leaves have a leading axis K, and
            whose schedule is None: there is one for all.
        alpha_bar: (T,) signal power, float64 on the host.
        noise_var: (T,) 1 - alpha_bar, subtracted in float64.
    """

    log_weights: jax.Array
    components: gaussian.GaussianPrior | gaussian.StationaryGaussianPrior
    alpha_bar: np.ndarray
    noise_var: jax.Array

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        _, height, width, channels = self.components.mean.shape
        return height, width, channels

    @classmethod
    def from_components(
        cls,
        weights: np.ndarray,
        components: Sequence[
            gaussian.GaussianPrior | gaussian.StationaryGaussianPrior
        ],
    ) -> 'MixturePrior':
        """Mix Gaussian priors that have one schedule.

        Args:
            weights: (K,) not negative, of any sum; they are normalised.
            components: K priors of one class, with arrays of the same shapes.

        Raises:
            ValueError: weights do not fit, or components differ in class,
                shape or schedule.
        """
        weights = np.asarray(weights, np.float64)
        if weights.shape != (len(components),) or not (
            np.all(weights >= 0) and np.sum(weights) > 0
        ):
            raise ValueError(
                f'weights must be {len(components)} numbers, one for each '
                f'component, not negative and not all 0, got {weights}.'
            )
        kinds = {_kind(component) for component in components}
        if len(kinds) > 1:
            raise ValueError(
                'components must be of one class and shape, got '
                f'{" and ".join(sorted(kinds))}.'
            )
        first = components[0]
        if any(
            not np.array_equal(component.alpha_bar, first.alpha_bar)
            for component in components
        ):
            raise ValueError('components must have the same alpha_bar.')
        none: dict[str, Any] = {'alpha_bar': None, 'noise_var': None}
        bare = [
            dataclasses.replace(component, **none) for component in components
        ]
        with np.errstate(divide='ignore'):  # A weight of 0 is -inf here.
            log_weights = np.log(weights / np.sum(weights))
        return cls(
            log_weights=jnp.asarray(log_weights, jnp.float32),
            components=jax.tree.map(lambda *leaves: jnp.stack(leaves), *bare),
            alpha_bar=first.alpha_bar,
            noise_var=first.noise_var,
        )

    @classmethod
    def from_covariances(
        cls,
        weights: np.ndarray,
        means: np.ndarray,
        covariances: np.ndarray,
        alpha_bar: np.ndarray,
    ) -> 'MixturePrior':
        """Mix N(mean_k, covariance_k): (K,), (K, H, W, C), (K, D, D), (T,)."""
        return cls.from_components(
            weights,
            [
                gaussian.GaussianPrior.from_covariance(
                    mean, covariance, alpha_bar
                )
                for mean, covariance in zip(means, covariances, strict=True)
            ],
        )

    @classmethod
    def isotropic(
        cls,
        weights: np.ndarray,
        means: np.ndarray,
        variances: np.ndarray,
        alpha_bar: np.ndarray,
    ) -> 'MixturePrior':
        """Mix N(mean_k, variance_k I): (K,), (K, H, W, C), (K,), (T,)."""
        return cls.from_components(
            weights,
            [
                gaussian.GaussianPrior.isotropic(mean, variance, alpha_bar)
                for mean, variance in zip(means, variances, strict=True)
            ],
        )

    def __call__(self, x_t: jax.Array, t: jax.typing.ArrayLike) -> Prediction:
        """Predict the noise in x_t, exactly.

        Args:
            x_t: (H, W, C) noisy image.
            t: () training timestep from 0 to T - 1; a float is rounded.

        Returns:
            eps, (H, W, C). There is no learned variance.
        """
        eps, log_joint = self._eps_and_log_joint(x_t, t)
        responsibilities = jax.nn.softmax(log_joint)[:, None, None, None]
        return Prediction(eps=jnp.sum(responsibilities * eps, axis=0))

    def log_density(self, x_t: jax.Array, t: jax.typing.ArrayLike) -> jax.Array:
        """Give log p_t(x_t), () in nats, for x_t (H, W, C) at timestep t."""
        _, log_joint = self._eps_and_log_joint(x_t, t)
        return jax.nn.logsumexp(log_joint)

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw one clean image x_0, (H, W, C)."""
        key_component, key_image = jax.random.split(key)
        k = jax.random.categorical(key_component, self.log_weights)
        component = jax.tree.map(lambda leaf: leaf[k], self.components)
        return component.sample(key_image)

    def unstack(
        self,
    ) -> list[gaussian.GaussianPrior | gaussian.StationaryGaussianPrior]:
        """Give the K components as priors of their own."""
        return [
            jax.tree.map(lambda leaf, k=k: leaf[k], self.components).replace(
                alpha_bar=self.alpha_bar, noise_var=self.noise_var
            )
            for k in range(self.log_weights.size)
        ]

    def _eps_and_log_joint(self, x_t, t):
        """Give eps_k (K, H, W, C) and log(weights_k p_{t,k}(x_t)) (K,)."""

        def component_values(component):
            prior = component.replace(
                alpha_bar=self.alpha_bar, noise_var=self.noise_var
            )
            return prior.eps_and_log_density(x_t, t)

        eps, log_density = jax.vmap(component_values)(self.components)
        return eps, self.log_weights + log_density


class MixturePosterior(NamedTuple):
    """A Gaussian mixture over images, in float64: x_0 given a measurement.

    To sample it by diffusion, or for `gaussian.likelihood_score`, make it a
    prior: `MixturePrior.from_covariances(weights, means, covariances,
    alpha_bar)`.
    """

    weights: np.ndarray  # (K,), with sum 1
    components: list[gaussian.Posterior]  # K of them

    @property
    def means(self) -> np.ndarray:
        """The components' means, (K, H, W, C)."""
        return np.stack([component.mean for component in self.components])

    @property
    def covariances(self) -> np.ndarray:
        """The components' covariances, (K, D, D)."""
        return np.stack([component.covariance for component in self.components])

    @property
    def mean(self) -> np.ndarray:
        """The mean of the mixture, (H, W, C)."""
        return np.tensordot(self.weights, self.means, 1)

    @property
    def covariance(self) -> np.ndarray:
        """The covariance of the mixture, (D, D): within plus between."""
        within = np.tensordot(self.weights, self.covariances, 1)
        offsets = (self.means - self.mean).reshape(self.weights.size, -1)
        return within + (offsets.T * self.weights) @ offsets

    def sample(self, rng: np.random.Generator, num_samples: int) -> np.ndarray:
        """Draw images, (num_samples, H, W, C)."""
        counts = rng.multinomial(num_samples, self.weights)
        drawn = [
            component.sample(rng, count)
            for component, count in zip(self.components, counts, strict=True)
        ]
        return rng.permutation(np.concatenate(drawn))


def mixture_posterior(
    prior: MixturePrior, matrix: np.ndarray, y: np.ndarray, noise_std: float
) -> MixturePosterior:
    """Give p(x_0 | y) for y = A x_0 + noise_std n, in float64.

    Args:
        prior: p(x_0).
        matrix: (M, D) A; `gaussian.dense_matrix` makes it from an operator.
        y: the measurement, M numbers in any shape.
        noise_std: () above 0, in [-1, 1] units.

    Raises:
        ValueError: a shape does not fit, or noise_std is not positive.
    """
    if noise_std <= 0:
        raise ValueError(
            'a mixture needs noise_std above 0, since without noise the '
            'evidence for a component may be infinite or zero; got '
            f'{noise_std}; a small value such as 1e-3 comes close.'
        )
    components = prior.unstack()
    posteriors = [
        gaussian.gaussian_posterior(component, matrix, y, noise_std)
        for component in components
    ]
    log_evidence = [
        _log_evidence(component, matrix, y, noise_std)
        for component in components
    ]
    log_joint = np.add(prior.log_weights, log_evidence, dtype=np.float64)
    joint = np.exp(log_joint - np.max(log_joint))
    return MixturePosterior(
        weights=joint / np.sum(joint), components=posteriors
    )


def _log_evidence(component, matrix, y, noise_std) -> float:
    """Give log p(y | k), in nats, up to what all components share."""
    mean = np.asarray(component.mean, np.float64).ravel()
    surprise = gaussian.flat_measurement(matrix, y) - matrix @ mean
    covariance = matrix @ component.covariance() @ matrix.T
    covariance += noise_std**2 * np.eye(len(matrix))
    distance = surprise @ np.linalg.solve(covariance, surprise)
    return -0.5 * (distance + np.linalg.slogdet(covariance).logabsdet)


def _kind(prior) -> str:
    """Name the class of a prior and its arrays' shapes."""
    shapes = [str(leaf.shape) for leaf in jax.tree.leaves(prior)]
    return f'{type(prior).__name__} {", ".join(shapes)}'

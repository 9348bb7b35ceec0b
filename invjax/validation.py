"""Does a posterior sampler sample the posterior? Tools to answer by numbers.

On closed-form priors the posterior is known (`invjax/priors/gaussian.py`), so
the samples that come out of the shipped scan can be held against it: their
mean, their covariance, and the whole distribution by its projections. An
exactly guided sampler shows what the scan itself can do. For it, and a Gaussian
posterior, even the error of a finite number of steps is known (`after_steps`),
so that what is left is Monte Carlo error alone.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invjax import sampler
from invjax.diffusion import tweedie
from invjax.methods.base import Method, guided_step
from invjax.priors.gaussian import Posterior, at_time, likelihood_score
from invjax.problem import Problem
from invjax.schedule import Steps
from invjax.types import Prediction

_NUM_DIRECTIONS = 128
# The ends of what is called a tail: one sample of a hundred lies beyond each.
_TAILS = (0.01, 0.99)


class ExactGuidance(Method):
    """Guidance by grad_{x_t} log p(y | x_t) itself, in closed form.

    The posterior p(x_0 | y) as a prior, on the schedule of the prior that the
    sampler is given, is the sampler's state: a method has numbers alone.

    Attributes:
        transition: how a step is taken.
    """

    name = 'exact'

    def update(self, key, x_t, state, step, problem, prior):
        _, noise_var_t = at_time(prior, step.t)
        score = likelihood_score(prior, state, x_t, step.t)
        eps = prior(x_t, step.t).eps - jnp.sqrt(noise_var_t) * score
        x0_hat = tweedie(x_t, eps, step.alpha_bar_t)
        x_s, info = guided_step(
            key,
            x_t,
            x0_hat,
            Prediction(eps),
            step,
            problem,
            self.transition,
        )
        return x_s, state, info


@functools.partial(jax.jit, static_argnames='num_samples')
def draw(
    key: jax.Array,
    method: Method,
    steps: Steps,
    problem: Problem,
    prior,
    num_samples: int,
    posterior=None,
):
    """Samples of one problem through the shipped scan, (num_samples, H, W, C).

    Args:
        key: of all samples.
        method: the value.
        steps: see `schedule.reverse_steps`.
        problem: see `invjax.problem`.
        prior: (x_t, t) -> Prediction.
        num_samples: static.
        posterior: of `ExactGuidance`, which has it in place of a state.
    """

    def one(key):
        x, state = sampler.start(key, steps, problem, method)
        carry = (x, state if posterior is None else posterior)
        carry, _ = sampler.run(key, carry, steps, problem, prior, method)
        return sampler.finish(key, carry, problem, method)

    return jax.vmap(one)(jax.random.split(key, num_samples))


class Moments(NamedTuple):
    """Mean and covariance over images, float64."""

    mean: np.ndarray  # (H, W, C)
    covariance: np.ndarray  # (D, D)


def after_steps(posterior: Posterior, steps: Steps) -> Moments:
    """What exact guidance has after all steps, from x_T ~ N(0, I), in float64.

    The estimate of x_0 is affine in x_t, so with ancestral steps of posterior
    variance x_t stays Gaussian. In the eigenbasis of the covariance, with
    eigenvalue lambda, a step from t to s is (Ho et al., 2020, eq. 7)

        d_s = c d_t,   v_s = c^2 v_t + beta_tilde,   c = w_0 g + w_t,
        g = sqrt(alpha_bar_t) lambda / (alpha_bar_t lambda + 1 - alpha_bar_t)

    for the mean's distance d_t from sqrt(alpha_bar_t) mu and the variance v_t.
    It uses none of the sampler's code.
    """
    eigenvalues, vectors = np.linalg.eigh(posterior.covariance)
    eigenvalues = np.maximum(eigenvalues, 0)
    mean = vectors.T @ posterior.mean.ravel()
    alpha_bars = np.asarray(steps.alpha_bar_t, np.float64)
    # Each step ends where the next begins, and the last at the clean image.
    targets = np.append(alpha_bars[1:], 1.0)
    distance = -np.sqrt(alpha_bars[0]) * mean
    variance = np.ones_like(mean)
    for alpha_bar_t, alpha_bar_s in zip(alpha_bars, targets, strict=True):
        alpha = alpha_bar_t / alpha_bar_s
        weight_0 = np.sqrt(alpha_bar_s) * (1 - alpha) / (1 - alpha_bar_t)
        weight_t = np.sqrt(alpha) * (1 - alpha_bar_s) / (1 - alpha_bar_t)
        gain = np.sqrt(alpha_bar_t) * eigenvalues
        gain /= alpha_bar_t * eigenvalues + 1 - alpha_bar_t
        factor = weight_0 * gain + weight_t
        added = (1 - alpha) * (1 - alpha_bar_s) / (1 - alpha_bar_t)
        distance, variance = factor * distance, factor**2 * variance + added
    return Moments(
        (vectors @ (mean + distance)).reshape(posterior.mean.shape),
        (vectors * variance) @ vectors.T,
    )


def largest_deviation(samples: np.ndarray, expected: Moments) -> float:
    """How many standard errors samples are from a Gaussian's moments at most.

    Over the mean and the variance along each eigenvector. The variance of n
    normal numbers has the standard error sqrt(2 / (n - 1)) of itself.

    Args:
        samples: (n, H, W, C).
        expected: of a Gaussian with a regular covariance.
    """
    samples = np.asarray(samples, np.float64)
    num_samples = len(samples)
    eigenvalues, vectors = np.linalg.eigh(expected.covariance)
    along = (samples - expected.mean).reshape(num_samples, -1) @ vectors
    of_mean = along.mean(axis=0) / np.sqrt(eigenvalues / num_samples)
    ratio = along.var(axis=0, ddof=1) / eigenvalues
    of_variance = (ratio - 1) / np.sqrt(2 / (num_samples - 1))
    return float(np.max(np.abs([of_mean, of_variance])))


class Errors(NamedTuple):
    """How far samples are from a posterior; each relative to its own size.

    Attributes:
        mean: ||m - mu|| / sqrt(tr Sigma).
        covariance: ||S - Sigma||_F / ||Sigma||_F.
        sliced: 2-Wasserstein distance of projections onto random directions,
            root mean square over them, over sqrt(tr Sigma / D).
        spread: sqrt(tr S / tr Sigma): below 1 the samples are too sure.
        tails: from the 1 % to the 99 % quantile along an eigenvector of Sigma,
            as a multiple of exact samples' length, mean over eigenvectors:
            below 1 the samples leave out what is rare.
    """

    mean: float
    covariance: float
    sliced: float
    spread: float
    tails: float


def errors(
    samples: np.ndarray,
    posterior,
    rng: np.random.Generator,
    num_bootstraps: int = 20,
) -> tuple[Errors, Errors]:
    """Errors of samples, and their Monte Carlo standard errors.

    Even exact samples have errors above zero: put `posterior.sample` through
    the same function for that floor.

    Args:
        samples: (n, H, W, C).
        posterior: with `mean`, `covariance` and `sample`.
        rng: of the directions, the exact samples, and the bootstrap.
        num_bootstraps: at least 2, or 0 for standard errors that are NaN.
    """
    samples = np.asarray(samples, np.float64)
    num_samples = len(samples)
    mean = posterior.mean.ravel()
    covariance = posterior.covariance
    total = np.trace(covariance)
    flat = samples.reshape(num_samples, -1)
    directions = rng.standard_normal((flat.shape[1], _NUM_DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    exact = posterior.sample(rng, num_samples).reshape(num_samples, -1)
    exact_quantiles = np.sort(exact @ directions, axis=0)
    _, vectors = np.linalg.eigh(covariance)

    def tail_lengths(flat):
        return np.ptp(np.quantile(flat @ vectors, _TAILS, axis=0), axis=0)

    exact_lengths = tail_lengths(exact)

    def of(flat):
        difference = np.sort(flat @ directions, axis=0) - exact_quantiles
        found = np.cov(flat.T)
        return Errors(
            mean=np.linalg.norm(flat.mean(axis=0) - mean) / np.sqrt(total),
            covariance=float(
                np.linalg.norm(found - covariance) / np.linalg.norm(covariance)
            ),
            sliced=np.sqrt(np.mean(difference**2) / (total / len(mean))),
            spread=np.sqrt(np.trace(found) / total),
            tails=np.mean(tail_lengths(flat) / exact_lengths),
        )

    resampled = [
        of(flat[rng.integers(num_samples, size=num_samples)])
        for _ in range(num_bootstraps)
    ]
    if not resampled:
        return of(flat), Errors(*[np.nan] * len(Errors._fields))
    deviations = np.std(resampled, axis=0, ddof=1)
    return of(flat), Errors(*deviations.tolist())

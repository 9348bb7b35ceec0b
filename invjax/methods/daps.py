"""Decoupled annealing posterior sampling (DAPS; Zhang et al., 2024).

At each noise level a clean image is drawn from an approximation of
p(x_0 | x_t, y), and noised again, independently of x_t:

    x0_hat   by a few steps of the probability flow from x_t (DDIM),
    x_0      ~ exp(-||y - A x_0||^2 / (2 sigma^2) - ||x_0 - x0_hat||^2 / (2 r_t^2)),
    x_s      = sqrt(alpha_bar_s) x_0 + sqrt(1 - alpha_bar_s) n.

The second is drawn exactly where A is linear, or by Langevin dynamics, which
needs no more than a differentiable A. r_t^2 = 1 - alpha_bar_t, times `spread`
squared, is what x_0 ~ N(0, I) would have. The last step gives the mean instead
of a sample.

Departures from the authors' code: it follows the flow by five Euler steps of EDM's
in sigma where we take `flow_steps` of DDIM, one by default; r_t is sigma_t there,
and sqrt(1 - alpha_bar_t) here, which agree for little noise; its Langevin dynamics
has 100 steps of a fixed size that is annealed by hand, and a likelihood of a width
of its own (tau, 0.01) in place of the measurement's sigma.

With `init='guess'` it does not begin with noise but with the image that the
operator guesses from y, or with the one of several guesses that the prior changes
least. That is for operators whose measurement is explained by many images or by
none that a gradient finds, phase retrieval above all. Levels of more noise than
signal (alpha_bar_t below 1/2) then do not move it: at the last of them, where
alpha_bar_s is above 0.2, each guess g is noised and denoised,

    error(g) += ||x0_hat(sqrt(alpha_bar_t) g + sqrt(1 - alpha_bar_t) n) - g||^2,

and the one of least error goes on. All guesses have the same n.
With fewer than five steps that level is nearly all noise, and tells nothing.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from invjax import consistency
from invjax.diffusion import diffuse, tweedie
from invjax.methods.base import Method, observe
from invjax.problem import nothing_measured
from invjax.settings import Number, choice, count, positive
from invjax.types import AmbiguousOperator, LinearOperator, Operator

# Signal power, alpha_bar, from which on images are moved, and up to which the
# guesses are not yet told apart.
_LEAST_SIGNAL = 0.5
_LEAST_SIGNAL_OF_CHOICE = 0.2


class _Guesses(NamedTuple):
    """What it may begin with, (K, H, W, C), and how the prior errs, (K,)."""

    x: jax.Array
    errors: jax.Array


class DAPS(Method):
    """Draw a clean image at each level, and noise it again.

    Attributes:
        spread: () factor of r_t, above 0. All numbers may be traced.
        flow_steps: () steps of the probability flow: network passes a level.
        langevin_steps: () of `langevin`.
        langevin_size: () its step as a fraction of the variance along the
            steepest direction; above 0, stable below 2.
        draw: one of `exact` and `langevin`.
        init: one of `noise` and `guess`, what it begins with.
        transition: of it, only `clip` is read; the step is the method's own.
    """

    name = 'daps'
    needs = LinearOperator
    has_own_step = True
    only_with = {  # noqa: RUF012
        'langevin_steps': ('draw', 'langevin'),
        'langevin_size': ('draw', 'langevin'),
    }

    spread: Number = positive(1.0)
    flow_steps: Number = count(1)
    langevin_steps: Number = count(20)
    langevin_size: Number = positive(0.3)
    draw: str = choice('exact', 'langevin')
    init: str = choice('noise', 'guess')

    def needs_of_operator(self):
        # Langevin dynamics asks for no more than a derivative.
        return Operator if self.draw == 'langevin' else self.needs

    def start(self, key, problem, steps):
        if self.init == 'noise':
            return super().start(key, problem, steps)
        key_guess, key_noise = jax.random.split(key)
        operator, y = problem.operator, problem.y
        if isinstance(operator, AmbiguousOperator):
            guesses = operator.guesses(key_guess, y)
        else:
            guesses = operator.guess(y)[None]
        state = _Guesses(guesses, jnp.zeros(len(guesses)))
        # Steps run downwards: the first one that moves an image.
        row = jnp.argmax(steps.alpha_bar_t >= _LEAST_SIGNAL)
        noise = jax.random.normal(key_noise, problem.image_shape)
        return diffuse(guesses[0], steps.alpha_bar_t[row], noise), state

    def update(self, key, x_t, state, step, problem, prior):
        if self.init == 'noise':
            return self._move(key, x_t, state, step, problem, prior)
        # Steps are shared by all lanes of a batch, so that this stays a branch.
        return jax.lax.cond(
            step.alpha_bar_t < _LEAST_SIGNAL,
            lambda: _choose(key, x_t, state, step, problem, prior),
            lambda: self._move(key, x_t, state, step, problem, prior),
        )

    def first_t(self, steps):
        if self.init == 'noise':
            return None
        # Until then nothing is told apart.
        return steps.t[jnp.argmax(steps.alpha_bar_s > _LEAST_SIGNAL_OF_CHOICE)]

    def _move(self, key, x_t, state, step, problem, prior):
        key_draw, key_noise = jax.random.split(key)
        x0_hat = _flow(x_t, step, prior, self.flow_steps)
        if self.transition.clip:
            x0_hat = jnp.clip(x0_hat, -1, 1)
        variance = self.spread**2 * step.noise_var_t
        is_last = step.noise_var_s == 0

        def clean(problem):
            """The clean image, and what its linear system was left with."""
            if self.draw == 'langevin':
                x_0 = _langevin(
                    key_draw,
                    x0_hat,
                    variance,
                    problem,
                    self.langevin_steps,
                    self.langevin_size,
                    heat=jnp.where(is_last, 0.0, 1.0),
                )
                return x_0, jnp.zeros(())
            mean = consistency.solve_nearest(problem, x0_hat, variance)
            drawn = consistency.solve_draw(key_draw, problem, x0_hat, variance)
            return (
                jnp.where(is_last, mean.x, drawn.x),
                jnp.where(
                    is_last, mean.relative_residual, drawn.relative_residual
                ),
            )

        noise = jax.random.normal(key_noise, x_t.shape)
        x_0, solver_residual = clean(problem)
        x_s = diffuse(x_0, step.alpha_bar_s, noise)
        nothing = nothing_measured(x_t.shape)
        nothing = dataclasses.replace(nothing, noise_std=problem.noise_std)
        plain_x_0, _ = clean(nothing)
        plain = diffuse(plain_x_0, step.alpha_bar_s, noise)
        info = observe(x_t, x0_hat, plain, x_s - plain, problem)
        return x_s, state, info._replace(solver_residual=solver_residual)


def _choose(key, x_t, state, step, problem, prior):
    """A step of much noise: which of the guesses does the prior know best?"""
    noise = jax.random.normal(key, x_t.shape)

    def error(guess):
        noised = diffuse(guess, step.alpha_bar_t, noise)
        x0_hat = tweedie(noised, prior(noised, step.t).eps, step.alpha_bar_t)
        return jnp.sum((x0_hat - guess) ** 2)

    errors = jax.lax.cond(
        (step.alpha_bar_s > _LEAST_SIGNAL_OF_CHOICE) & (len(state.x) > 1),
        lambda: state.errors + jax.lax.map(error, state.x),
        lambda: state.errors,
    )
    guess = state.x[jnp.argmin(errors)]
    x_s = diffuse(guess, step.alpha_bar_s, noise)
    info = observe(x_t, guess, x_s, jnp.zeros(()), problem)
    return x_s, state._replace(errors=errors), info


def _flow(x_t, step, prior, num_steps):
    """The clean end of the probability flow from x_t, by DDIM."""
    alpha_bar = jnp.asarray(prior.alpha_bar, jnp.float32)
    num_steps = jnp.asarray(num_steps, jnp.int32)

    def move(i, carry):
        x, _ = carry
        t = jnp.round(step.t * (1 - i / num_steps)).astype(jnp.int32)
        s = jnp.round(step.t * (1 - (i + 1) / num_steps)).astype(jnp.int32)
        eps = prior(x, t).eps
        x0_hat = tweedie(x, eps, alpha_bar[t])
        return diffuse(x0_hat, alpha_bar[s], eps), x0_hat

    _, x0_hat = jax.lax.fori_loop(0, num_steps, move, (x_t, x_t))
    return x0_hat


def _langevin(key, x0_hat, variance, problem, num_steps, size, heat):
    """Langevin dynamics on the posterior around x0_hat."""
    # Without noise the likelihood has no scale; a thousandth is one that
    # float32 carries.
    noise_var = jnp.maximum(problem.noise_std**2, 1e-3 * variance)
    # Operators of this project have singular values of at most about 1.
    size = size / (1 / variance + 1 / noise_var)

    def energy(x):
        distance = jnp.sum(problem.residual(x) ** 2) / (2 * noise_var)
        return distance + jnp.sum((x - x0_hat) ** 2) / (2 * variance)

    def move(i, x):
        noise = jax.random.normal(jax.random.fold_in(key, i), x.shape)
        return (
            x - size * jax.grad(energy)(x) + heat * jnp.sqrt(2 * size) * noise
        )

    return jax.lax.fori_loop(0, jnp.asarray(num_steps, jnp.int32), move, x0_hat)

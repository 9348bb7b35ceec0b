"""Step-wise triple-consistent sampling (SITCOM; Alkhouri et al., 2025).

At each step the input of the network is optimised, so that what comes out of it
explains the measurement (their Algorithm 1):

    v  = argmin ||y - A(f(v; t))||^2 + lam ||x_t - v||^2,   from v = x_t,
    x_s = sqrt(alpha_bar_s) f(v; t) + sqrt(1 - alpha_bar_s) n,

with f Tweedie's estimate, by K steps of Adam, or fewer: they stop once the
residual is as small as noise alone would leave it. So the estimate stays one
that the network gives for some input, and few steps are enough; each is up to K
passes through the network and back.

Their code keeps, of all estimates on the way, the one nearest to the truth; we
return the last, since a measurement comes without its truth. Their released
script has no lam either, which is `lam=0`, and for inpainting takes one more step
of guidance after each level, which is left out here.
"""

import jax
import jax.numpy as jnp

from invjax.diffusion import diffuse
from invjax.methods.base import Method, observe
from invjax.settings import Number, count, not_negative, positive


class SITCOM(Method):
    """Optimise what the network is given, at each step.

    Attributes:
        inner_steps: K, () the most steps of Adam. All numbers may be traced;
            lanes that differ in what they need wait for the slowest.
        learning_rate: () of Adam, above 0.
        lam: () of the distance from x_t, 0 or more.
        delta: () where to stop: the residual's norm as a multiple of
            noise_std sqrt(m). Theirs is 0.051 / 0.05; 0 takes all K steps.
        transition: of it, only `clip` is read; the step is the method's own.
    """

    name = 'sitcom'
    has_own_step = True
    stops_by_value = True

    inner_steps: Number = count(20)
    learning_rate: Number = positive(0.01)
    lam: Number = not_negative(1.0)
    delta: Number = not_negative(1.02)

    def update(self, key, x_t, state, step, problem, prior):
        import optax

        optimiser = optax.adam(self.learning_rate)
        stop_at = self.delta * problem.expected_residual_norm()
        max_steps = jnp.asarray(self.inner_steps, jnp.int32)

        def objective(v):
            x0_hat = self.transition.estimate(v, prior(v, step.t), step)
            squared = jnp.sum(problem.residual(x0_hat) ** 2)
            away = jnp.sum((x_t - v) ** 2)
            return squared + self.lam * away, (x0_hat, squared)

        # One more pass than steps, for the estimate at the last v. Its gradient
        # goes unused, which costs less than to compile the network twice.
        def unfinished(carry):
            num_passes, met, *_ = carry
            return (num_passes <= max_steps) & ~met

        def descend(carry):
            num_passes, _, v, moments, of_x_t, _ = carry
            gradient, (x0_hat, squared) = jax.grad(objective, has_aux=True)(v)
            of_x_t = jnp.where(num_passes == 0, x0_hat, of_x_t)
            change, moments = optimiser.update(gradient, moments)
            v = optax.apply_updates(v, change)
            met = squared <= stop_at**2
            return num_passes + 1, met, v, moments, of_x_t, x0_hat

        begin = (jnp.zeros((), jnp.int32), jnp.zeros((), bool), x_t)
        *_, x0_hat, x0_corrected = jax.lax.while_loop(
            unfinished, descend, (*begin, optimiser.init(x_t), x_t, x_t)
        )
        noise = jax.random.normal(key, x_t.shape)
        plain = diffuse(x0_hat, step.alpha_bar_s, noise)
        x_s = diffuse(x0_corrected, step.alpha_bar_s, noise)
        return x_s, state, observe(x_t, x0_hat, plain, x_s - plain, problem)

"""RED-diff (Mardani et al., 2023): restoration as optimisation.

The posterior is approximated by a narrow normal around mu, whose fit descends

    ||y - A mu||^2 / 2 + weight w_t stop_gradient(eps(x_t, t) - n)^T mu,
    x_t = sqrt(alpha_bar_t) mu + sqrt(1 - alpha_bar_t) n,
    w_t = sqrt((1 - alpha_bar_t) / alpha_bar_t)

(their Algorithm 1), by Adam, one step a level, from the noisy ones down. No pass
back through the network is needed.

Both terms are sums, as the paper has them. The authors' code (NVlabs/RED-diff)
averages each: the first over the m measured values, the second over the n of the
image. A common factor is nothing to Adam, but where y has fewer numbers than the
image, a weight there acts as m / n of it does here.
"""

import jax
import jax.numpy as jnp

from invjax.diffusion import diffuse
from invjax.methods.base import Method, observe
from invjax.settings import Number, not_negative, positive


class REDDiff(Method):
    """Optimise an image under the denoiser's regularisation.

    Attributes:
        learning_rate: () of Adam, above 0. May be traced, as the next.
        weight: () of the regularisation, 0 or more; the paper's 0.25.
        transition: of it, only `clip` is read: the image is kept in range.
    """

    name = 'reddiff'
    has_own_step = True
    validation_settings = tuple({'weight': v} for v in (0.25, 1.0))

    learning_rate: Number = positive(0.1)
    weight: Number = not_negative(0.25)

    def _optimiser(self):
        import optax

        return optax.adam(self.learning_rate, b1=0.9, b2=0.99)

    def start(self, key, problem, steps):
        del key, steps
        # The pseudo-inverse of a blur carries noise far out of range.
        mu = jnp.clip(problem.operator.guess(problem.y), -1, 1)
        return mu, self._optimiser().init(mu)

    def update(self, key, mu, state, step, problem, prior):
        noise = jax.random.normal(key, mu.shape)
        x_t = diffuse(mu, step.alpha_bar_t, noise)
        prediction = prior(x_t, step.t)
        x0_hat = self.transition.estimate(x_t, prediction, step)
        signal_to_noise = jnp.sqrt(step.noise_var_t / step.alpha_bar_t)
        by_prior = self.weight * signal_to_noise * (prediction.eps - noise)
        by_data = jax.grad(lambda mu: jnp.sum(problem.residual(mu) ** 2) / 2)(
            mu
        )
        change, state = self._optimiser().update(by_prior + by_data, state)
        moved = mu + change
        if self.transition.clip:
            moved = jnp.clip(moved, -1, 1)
        info = observe(mu, x0_hat, moved, by_data, problem)
        return moved, state, info

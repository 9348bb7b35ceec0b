"""The simplest prior: it costs nothing, and all of it is known."""

import flax.struct
import jax.numpy as jnp

from invjax import schedule
from invjax.priors.card import Card
from invjax.types import Prediction


@flax.struct.dataclass
class StandardNormal:
    """Images of independent N(0, 1) values.

    Then x_t is N(0, 1) too and E[x_0 | x_t] = sqrt(alpha_bar_t) x_t, so that
    eps = sqrt(1 - alpha_bar_t) x_t.
    """

    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)
    card: Card | None = flax.struct.field(pytree_node=False, default=None)

    @property
    def alpha_bar(self):
        return schedule.alpha_bars(schedule.linear_betas())

    def __call__(self, x_t, t):
        noise_var = 1 - jnp.asarray(self.alpha_bar, jnp.float32)[t]
        return Prediction(jnp.sqrt(noise_var) * x_t)

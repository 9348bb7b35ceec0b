"""Any network or function that denoises, in any parametrisation, as a prior."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from invjax import schedule
from invjax.diffusion import Prediction
from invjax.priors import blocks, sizes
from invjax.priors.card import Card
from invjax.priors.parametrisation import (
    PARAMETRISATIONS,
    Coefficients,
    Parametrisation,
)

_Levels = schedule.Betas | schedule.Sigmas | schedule.FlowTimes


@flax.struct.dataclass
class Denoiser:
    """A trained network as a prior: a pytree whose leaves are its parameters.

    Attributes:
        params: nested dict of arrays.
        network: a Flax module, or what has its `apply(variables, x, time)`:
            (H, W, C) and () to what the parametrisation says, (H, W, C), or
            (H, W, 2 C) with the place of the log-variance, from -1 to 1, beside
            it. Static.
        image_shape: (H, W, C), static.
        parametrisation: how the network is asked and what it says, static.
        noise_levels: the levels that it is asked at, static.
        prepared: what `prepare` made of the parameters, or nothing.
        card: what is known of it, where it was loaded. Static.
    """

    params: Any
    network: Any = flax.struct.field(pytree_node=False)
    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)
    parametrisation: Parametrisation = flax.struct.field(pytree_node=False)
    noise_levels: _Levels = flax.struct.field(pytree_node=False)
    prepared: dict = flax.struct.field(default_factory=dict)
    card: Card | None = flax.struct.field(pytree_node=False, default=None)

    @classmethod
    def of(
        cls,
        function: Callable,
        image_shape: tuple[int, int, int],
        parametrisation: str | Parametrisation,
        noise_levels: _Levels | None = None,
        params: Any = None,
    ) -> 'Denoiser':
        """A prior of a JAX function.

            prior = Denoiser.of(network, (64, 64, 3), 'flow')

        Args:
            function: maps a noisy image, (H, W, C), and a time, (), to what the
                parametrisation says, (H, W, C). With `params` they come first.
                It is compiled and differentiated, so it must be one that JAX
                can trace; a new function compiles anew.
            image_shape: (H, W, C).
            parametrisation: a name of PARAMETRISATIONS, or one of your own:
                `noise`, `clean` and `v` are asked at VP images and timesteps;
                `score` and `denoiser` at x_0 + sigma n and sigma; `edm` is the
                raw network inside of EDM's preconditioning; `flow` is asked at
                (1 - s) x_0 + s n and s for the velocity n - x_0; `data_flow` at
                the same image and time 1 - s for x_0 - n.
            noise_levels: that it was trained on; None is 1000 timesteps of
                linear betas, 0.002 to 80 as in EDM, or flow times from 0.001 to
                0.999, as the coordinates have it.
            params: a pytree of arrays, which stay arguments when the function
                is compiled; what it closes over becomes constants.

        Raises:
            ValueError: for an unknown name, or a function whose output has
                another shape.
        """
        if isinstance(parametrisation, str):
            if parametrisation not in PARAMETRISATIONS:
                raise ValueError(
                    'parametrisation must be one of '
                    f'{", ".join(PARAMETRISATIONS)}, or a Parametrisation, got '
                    f'{parametrisation!r}.'
                )
            parametrisation = PARAMETRISATIONS[parametrisation]
        if noise_levels is None:
            noise_levels = default_levels(parametrisation)
        if len(image_shape) != 3:
            raise ValueError(
                f'image_shape must be (H, W, C), got {tuple(image_shape)}.'
            )
        height, width, channels = (int(size) for size in image_shape)
        prior = cls(
            params={} if params is None else params,
            network=_Function(function, params is not None),
            image_shape=(height, width, channels),
            parametrisation=parametrisation,
            noise_levels=noise_levels,
        )
        prior.check()
        return prior

    def bare(self) -> 'Denoiser':
        """Without its card: priors of one network share compiled programs."""
        return dataclasses.replace(self, card=None)

    def __repr__(self):
        """Two lines, and not the parameters."""
        network = self.network
        kind = type(network).__name__
        if isinstance(network, _Function):
            kind = f'of {getattr(network.function, "__name__", "a function")}'
        name = 'no card' if self.card is None else self.card.name
        number = sum(np.size(leaf) for leaf in jax.tree.leaves(self.params))
        height, width, channels = self.image_shape
        how = self.parametrisation
        return (
            f'Denoiser({name}: {kind}, {height} x {width} x {channels}, '
            f'{number:,} parameters,\n    {len(self.alpha_bar)} noise levels, '
            f'says {how.output} in {how.coordinates} coordinates)'
        )

    @property
    def alpha_bar(self) -> np.ndarray:
        """Signal power at each noise level, (T,) float64."""
        return self.noise_levels.alpha_bar

    @property
    def num_train_steps(self) -> int:
        """T, the number of noise levels."""
        return len(self.alpha_bar)

    def with_size(self, height: int, width: int) -> 'Denoiser':
        """The same prior, for images of another size.

        Raises:
            ValueError: for a size that the network cannot have.
        """
        sizes.check(height, width, sizes.divisor(self.network))
        image_shape = height, width, self.image_shape[2]
        sized = dataclasses.replace(self, image_shape=image_shape, prepared={})
        sized.check()
        return sized

    def check(self) -> None:
        """Trace the network once.

        Raises:
            ValueError: if its output has not the shape of an image.
        """
        variables = {'params': self.params, 'prepared': self.prepared}
        image = jax.ShapeDtypeStruct(self.image_shape, jnp.float32)
        time = jax.ShapeDtypeStruct((), jnp.float32)
        out = jax.eval_shape(self.network.apply, variables, image, time)
        height, width, channels = self.image_shape
        shapes = [(height, width, channels), (height, width, 2 * channels)]
        if getattr(out, 'shape', None) not in shapes:
            raise ValueError(
                f'a prior of images of shape {self.image_shape} must map one to '
                f'{shapes[0]}, or to {shapes[1]} with a learned variance, got '
                f'{getattr(out, "shape", type(out).__name__)}.'
            )

    def prepare(self) -> 'Denoiser':
        """The same prior, faster on a CPU, for images of its size.

        See `blocks.prepare`. A function of one's own stays as it is.

        Raises:
            ValueError: if the network does not compute in float32.
        """
        if isinstance(self.network, _Function):
            return self
        prepared = blocks.prepare(self.network, self.params, self.image_shape)
        return dataclasses.replace(self, prepared=prepared)

    def __call__(self, x_t: jax.Array, t: jax.typing.ArrayLike) -> Prediction:
        """Predict the noise in one image, (H, W, C).

        Args:
            x_t: (H, W, C), in VP coordinates.
            t: () row of the noise levels; a float is rounded.
        """
        row = jnp.round(t).astype(jnp.int32)
        at = _coefficients(self.parametrisation, self.noise_levels)
        at = jax.tree.map(lambda column: jnp.asarray(column)[row], at)
        variables = {'params': self.params, 'prepared': self.prepared}
        x = at.input_scale * x_t + at.input_shift
        out = self.network.apply(variables, x, at.time)
        fraction = None
        if out.shape[-1] == 2 * x_t.shape[-1]:
            out, fraction = jnp.split(out, 2, axis=-1)
            fraction = (fraction + 1) / 2
        eps = at.eps_x * x_t + at.eps_shift + at.eps_output * out
        return Prediction(eps, fraction)


@functools.lru_cache(maxsize=32)
def _coefficients(parametrisation, noise_levels) -> Coefficients:
    """The table, in NumPy, so that no trace is kept in it."""
    return parametrisation.coefficients(noise_levels.alpha_bar)


@dataclasses.dataclass(frozen=True)
class _Function:
    """A function in the place of a Flax module."""

    function: Callable
    takes_params: bool

    def apply(self, variables, x, time):
        if self.takes_params:
            return self.function(variables['params'], x, time)
        return self.function(x, time)


def default_levels(parametrisation: Parametrisation) -> _Levels:
    """The noise levels that networks of these coordinates are trained on."""
    levels: dict[str, _Levels] = {
        'vp': schedule.Betas(),
        've': schedule.Sigmas(),
        'edm': schedule.Sigmas(),
        'flow': schedule.FlowTimes(),
    }
    return levels[parametrisation.coordinates]

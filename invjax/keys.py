"""Random keys: a branch for each purpose first, then numbers.

In JAX `split(key)[i]` and `fold_in(key, i)` are the same key, so two uses that
count from 0 under one key draw the same numbers. Here the first step from the
root says what a key is for, and what is counted comes after it:

    root -> data     -> image -> operator | noise
         -> held out -> image
         -> sampler  -> image -> sample

so that all keys of an experiment are distinct, and an image has the same ones
whatever part of a data set is run, by whatever method.
"""

import numbers

import jax
from jax.typing import ArrayLike

_DATA, _HELD_OUT, _SAMPLER = range(3)
_OPERATOR, _NOISE = range(2)
# Seeds of 32 bits; larger ones would wrap around to smaller ones.
MAX_SEED = 2**32 - 1


def root(seed: int | jax.Array) -> jax.Array:
    """The key of an experiment, of a seed or of a key.

    Raises:
        ValueError: for a seed that is not a whole number from 0 to 2**32 - 1.
    """
    if isinstance(seed, jax.Array) and jax.dtypes.issubdtype(
        seed.dtype, jax.dtypes.prng_key
    ):
        return seed
    is_whole = (
        isinstance(seed, numbers.Real)
        and not isinstance(seed, bool)
        and float(seed).is_integer()
    )
    if not is_whole or not 0 <= seed <= MAX_SEED:
        raise ValueError(
            f'seed must be a whole number from 0 to {MAX_SEED}, got {seed}.'
        )
    return jax.random.key(int(seed))


def of_operator(root: jax.Array, image: ArrayLike = 0) -> jax.Array:
    """The key of what is random in an image's operator."""
    return _branch(root, _DATA, image, _OPERATOR)


def of_noise(root: jax.Array, image: ArrayLike = 0) -> jax.Array:
    """The key of the noise of an image's measurement."""
    return _branch(root, _DATA, image, _NOISE)


def of_held_out(root: jax.Array, image: ArrayLike = 0) -> jax.Array:
    """The key of which measured pixels of an image are held out."""
    return _branch(root, _HELD_OUT, image)


def of_sample(
    root: jax.Array, image: ArrayLike = 0, sample: ArrayLike = 0
) -> jax.Array:
    """The sampler's key for an image's sample: the same for all methods."""
    return _branch(root, _SAMPLER, image, sample)


def _branch(key: jax.Array, *numbers: ArrayLike) -> jax.Array:
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key

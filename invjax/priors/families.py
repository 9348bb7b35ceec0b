"""Priors of other families as plain data: what a card says of one, and back."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from invjax import schedule
from invjax.priors import parametrisation
from invjax.priors.denoiser import Denoiser
from invjax.priors.diffusers_unet import UNet2D
from invjax.priors.edm_unet import EDMUNet

FAMILIES = {'diffusers': UNet2D, 'edm': EDMUNet}


def describe(prior: Denoiser) -> dict[str, Any]:
    """A prior without its parameters, as plain data.

    Returns:
        `family`, a key of FAMILIES; `architecture`, the fields of its network;
        `image_shape`; `parametrisation`; and `noise_levels`.

    Raises:
        ValueError: if its network is none of FAMILIES.
    """
    kinds = [k for k, v in FAMILIES.items() if type(prior.network) is v]
    if not kinds:
        raise ValueError(
            f'only networks of {" and ".join(FAMILIES)} can be described, got '
            f'{type(prior.network).__name__}.'
        )
    return {
        'family': kinds[0],
        'architecture': {
            name: list(value) if isinstance(value, tuple) else value
            for name in _architecture_fields(type(prior.network))
            for value in [getattr(prior.network, name)]
        },
        'image_shape': list(prior.image_shape),
        'parametrisation': parametrisation.describe(prior.parametrisation),
        'noise_levels': schedule.describe_levels(prior.noise_levels),
    }


def from_description(
    description: dict[str, Any],
    params: dict,
    dtype: jnp.dtype = jnp.float32,
    remat: bool = False,
) -> Denoiser:
    """The prior of a description and its parameters.

    Args:
        description: what `describe` gives, or a card that has it among others.
        params: nested dict of arrays; in float32 in the prior.
        dtype: of the computation, float32 or bfloat16.
        remat: whether gradients recompute the inside of blocks to save memory.
    """
    network = FAMILIES[description['family']]
    fields = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in description['architecture'].items()
    }
    return Denoiser(
        params=jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float32), params
        ),
        network=network(**fields, dtype=dtype, remat=remat),
        image_shape=tuple(description['image_shape']),
        parametrisation=parametrisation.from_description(
            description['parametrisation']
        ),
        noise_levels=schedule.levels_from_description(
            description['noise_levels']
        ),
    )


def _architecture_fields(network) -> list[str]:
    return [
        field.name
        for field in dataclasses.fields(network)
        if field.name not in ('parent', 'name', 'dtype', 'remat')
    ]

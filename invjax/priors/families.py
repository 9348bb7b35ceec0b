"""Priors of other families than guided-diffusion's: from files, and as data.

What diffusers saved and NVIDIA's EDM snapshots become a `Denoiser`, which a card
describes as plain data, and which is made again from the card and parameters.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invjax import schedule
from invjax.priors import (
    diffusers_folder,
    edm,
    edm_file,
    parametrisation,
    state_dict,
    torch_file,
)
from invjax.priors.card import Card
from invjax.priors.denoiser import Denoiser
from invjax.priors.diffusers_unet import UNet2D
from invjax.priors.edm_unet import EDMUNet

FAMILIES = {'diffusers': UNet2D, 'edm': EDMUNet}


def describe(prior: Denoiser) -> dict[str, Any]:
    """A prior without its parameters, as plain data.

    Returns:
        `family`, a key of FAMILIES; `architecture`, the fields of its network;
        `image_shape`; `parametrisation`; `noise_levels`; and their number,
        `num_train_steps`.

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
        'num_train_steps': len(prior.alpha_bar),
    }


def from_description(
    description: Mapping[str, Any],
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

    Returns:
        The prior; its card is the description, where that is a Card.

    Raises:
        ValueError: for a description that is none.
    """
    network = _network(description).clone(dtype=dtype, remat=remat)
    return Denoiser(
        params=jax.device_put(
            jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)
        ),
        network=network,
        image_shape=tuple(description['image_shape']),
        parametrisation=parametrisation.from_description(
            description['parametrisation']
        ),
        noise_levels=schedule.levels_from_description(
            description['noise_levels']
        ),
        card=description if isinstance(description, Card) else None,
    )


def flax_shapes(description: dict[str, Any]) -> dict[tuple, tuple[int, ...]]:
    """Path to shape of the parameters of a description's network.

    Raises:
        ValueError: for a description that is none.
    """
    return state_dict.flax_shapes(
        _network(description), description['image_shape'][-1]
    )


def _network(description):
    family = description['family']
    if family not in FAMILIES:
        raise ValueError(
            f'the family of a prior must be one of {", ".join(FAMILIES)}, got '
            f'{family!r}.'
        )
    fields = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in description['architecture'].items()
    }
    unknown = set(fields) - set(_architecture_fields(FAMILIES[family]))
    if unknown:
        raise ValueError(f'an architecture has no field {min(unknown)!r}.')
    return FAMILIES[family](**fields)


def read_folder(folder: pathlib.Path) -> tuple[Denoiser, dict[str, Any]]:
    """A prior from a folder that diffusers saved, and fields for its card.

    Raises:
        ValueError: see `diffusers_folder.read`.
    """
    prior, note = diffusers_folder.read(folder)
    fields = {
        'source': diffusers_folder.weights_file(folder).name,
        **describe(prior),
        'note': f'saved by diffusers{"; " if note else ""}{note}',
    }
    return prior, fields


def folder_sha256(folder: pathlib.Path) -> str:
    """Of the weights and the configuration in a folder that diffusers saved."""
    digest = hashlib.sha256()
    for path in diffusers_folder.files(folder):
        digest.update(torch_file.file_sha256(path).encode())
    return digest.hexdigest()


def read_snapshot(path: str | os.PathLike) -> tuple[Denoiser, dict[str, Any]]:
    """A prior from NVIDIA's `network-snapshot-*.pkl`, and fields for its card.

    Raises:
        ValueError: see `edm_file.read_edm_pickle` and `edm.denoiser`.
    """
    found = edm_file.read_edm_pickle(path)
    try:
        prior = edm.denoiser(found.tensors, found.class_name, found.init_kwargs)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    return prior, {**describe(prior), 'preconditioning': found.class_name}


def is_edm(names) -> bool:
    """Whether the names of a state dict are those of an EDM network."""
    names = {name.removeprefix('model.') for name in names}
    return 'map_layer0.weight' in names


def read_edm_tensors(
    tensors: dict[str, Any], preconditioning: str
) -> tuple[Denoiser, dict[str, Any]]:
    """A prior from the state dict of an EDM network, and fields for its card.

    Args:
        tensors: PyTorch name to array.
        preconditioning: the class around it, one of `edm.PRECONDITIONINGS`.

    Raises:
        ValueError: see `edm.denoiser`.
    """
    prior = edm.denoiser(tensors, preconditioning)
    return prior, {**describe(prior), 'preconditioning': preconditioning}


def _architecture_fields(network) -> list[str]:
    return [
        field.name
        for field in dataclasses.fields(network)
        if field.name not in ('parent', 'name', 'dtype', 'remat')
    ]

"""Several images, and the study that is made of them: flags and reading."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from invjax import images, metrics
from invjax.commandline import groups
from invjax.commandline.flags import Flags, Given
from invjax.study.plan import Data

_SECTION = 'images'


def define(flags: Flags, num_samples: bool = True) -> None:
    """The flags of images, scores, lanes and processes."""
    define_images(flags)
    if num_samples:
        flags.integer(
            'num_samples',
            1,
            'Of each image and setting.',
            at_least=1,
            at_most=groups.MOST,
        )
    flags.strings(
        'lpips',
        ['alex'],
        'Variants of the distance: alex, vgg, both, or none.',
    )
    groups.define_lanes(flags)
    flags.number(
        'memory_gib',
        None,
        'Instead of --max_lanes: as many as fit on each device, by the '
        "compiler's estimate.",
        above=0,
    )
    groups.define_processes(flags)


def define_images(flags: Flags) -> None:
    """--images, --first_image and --num_images; `read_images` reads them."""
    flags.string(
        'images',
        None,
        'A folder of pictures, or FILE.npz:KEY.',
        section=_SECTION,
    )
    flags.integer(
        'first_image', 0, 'The first one to take.', at_least=0, section=_SECTION
    )
    flags.integer(
        'num_images', 8, 'How many to take.', at_least=1, section=_SECTION
    )


def load(given: Given) -> Data:
    """The prior, the images and the distances of the flags."""
    groups.noise_of(given)  # Refuses what cannot be, before loading.
    distances = load_distances(given.lpips)
    prior = groups.load_prior(given, given.max_lanes)
    truths = read_images(given, prior.image_shape)
    return Data(prior, truths, given.first_image, distances)


def load_distances(variants) -> list[metrics.LPIPS]:
    """LPIPS in some variants; ValueError if no place has the weights."""
    try:
        return [metrics.load_lpips(v) for v in variants if v != 'none']
    except RuntimeError as error:
        raise ValueError(str(error)) from None


def how(given: Given, share: tuple[int, int]) -> dict[str, Any]:
    """Arguments of `running.compute`.

    Args:
        share: what `groups.join_processes` gave.
    """
    process, num_processes = share
    return {
        'process': process,
        'num_processes': num_processes,
        'max_lanes': given.max_lanes,
        'memory_gib': given.memory_gib,
    }


def of_plan(given: Given) -> Mapping[str, Any]:
    """Fields of a `Plan` that flags have."""
    return {
        'noise': groups.noise_of(given),
        'task_parameters': groups.task_parameters(given),
        'num_samples': given.num_samples,
        'seed': given.seed,
    }


def read_images(
    given: Given,
    image_shape: tuple[int, int, int],
    first: int | None = None,
    number: int | None = None,
) -> list[np.ndarray]:
    """The images of the flags, (H, W, C) each, in the prior's size.

    Others of --images than the flags choose are had by `first` and `number`.
    """
    name, side = given.images, image_shape[0]
    if name is None:
        raise ValueError('give --images, a folder or FILE.npz:KEY.')
    first = given.first_image if first is None else first
    last = first + (given.num_images if number is None else number)
    stem, _, array = name.partition('.npz:')
    if array:
        path = pathlib.Path(f'{stem}.npz')
        if not path.is_file():
            raise ValueError(f'there is no file {path}.')
        with np.load(path) as arrays:
            if array not in arrays:
                raise ValueError(
                    f'{path} has no {array!r}; it has {", ".join(arrays)}.'
                )
            truths = [images.to_float(x) for x in arrays[array][first:last]]
    else:
        paths = sorted(pathlib.Path(name).glob('*.[pj][np]*g'))[first:last]
        truths = [images.read_image(path, side)[0] for path in paths]
    if not truths:
        raise ValueError(f'{name} has no image number {first}.')
    if truths[0].shape[0] != side:
        raise ValueError(
            f'the images are {truths[0].shape[0]} px, the prior is for {side}.'
        )
    return truths

"""Several images, and the study that is made of them: flags and reading."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from invjax import images, metrics
from invjax.commandline import groups, measured
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
        'A folder of pictures, FILE.npz:KEY, FILE.npy, or phantoms: drawn slices.',
        section=_SECTION,
    )
    measured.define_value_range(flags)
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
    distances = _for_channels(distances, prior.image_shape[-1])
    truths = read_images(given, prior.image_shape)
    return Data(prior, truths, given.first_image, distances)


def load_distances(variants) -> list[metrics.LPIPS]:
    """LPIPS in some variants; ValueError if no place has the weights."""
    try:
        return [metrics.load_lpips(v) for v in variants if v != 'none']
    except RuntimeError as error:
        raise ValueError(str(error)) from None


def _for_channels(distances, channels: int) -> list[metrics.LPIPS]:
    """The distances that judge images of so many channels; says what is done."""
    if distances and channels == 1:
        print('LPIPS is of the grey channel, repeated three times.')
    if distances and channels not in (1, 3):
        print(
            f'LPIPS is left out: it judges grey and RGB, not {channels} '
            'channels.'
        )
        return []
    return distances


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
    if given.images is None:
        raise ValueError(
            'give --images, a folder, FILE.npz:KEY, FILE.npy or phantoms.'
        )
    first = given.first_image if first is None else first
    number = given.num_images if number is None else number
    found = images.read_set(
        given.images, image_shape, first, number, measured.value_range(given)
    )
    print(found.done.partition('\n')[0])
    return list(found.x)

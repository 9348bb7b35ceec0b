"""One measurement, made here of a picture or brought: flags, checks, reading."""

import jax.numpy as jnp
import numpy as np

from invjax import images, keys, measurement, operators, problem
from invjax.commandline import groups
from invjax.commandline.flags import Flags, Given
from invjax.operators.blur import convolution
from invjax.operators.mask import Mask
from invjax.problem import Problem

_SECTION = 'measurement'
_FILES = ('image', 'measurement', 'mask', 'kernel')


def define(flags: Flags) -> None:
    """--image, --measurement, --mask, --kernel, --task and the noise."""
    flags.string(
        'image',
        None,
        'The truth, any picture: it is degraded, then restored. A damaged '
        'picture is a --measurement.',
        section=_SECTION,
    )
    flags.string(
        'measurement',
        None,
        'Instead of --image: y, of the size that the task measures.',
        section=_SECTION,
    )
    flags.string(
        'mask', None, 'For inpainting: white is observed.', section=_SECTION
    )
    flags.string(
        'kernel',
        None,
        'Of motion_deblur: the blur as a grey picture of odd sides. It may be '
        'brought with --image or --measurement.',
        section=_SECTION,
    )
    groups.define_task(flags)
    groups.define_noise(flags)


def check(given: Given) -> dict[str, str]:
    """Refuse what cannot be, before anything is loaded.

    Returns:
        The SHA-256 of each file that was brought, by the name of its flag.
    """
    task = given.task
    if (given.image is None) == (given.measurement is None):
        raise ValueError(
            'give either --image, a truth to degrade and restore, or '
            '--measurement, what is to be restored.'
        )
    parameters = groups.task_parameters(given)
    operators.check_names(task, parameters)
    is_inpainting = task.endswith('inpainting')
    if given.measurement is not None and is_inpainting and given.mask is None:
        raise ValueError(f'{task} of a --measurement needs --mask.')
    if given.mask is not None and not is_inpainting:
        raise ValueError(f'--mask goes with a task of inpainting, not {task}.')
    if given.kernel is not None and task != 'motion_deblur':
        raise ValueError(f'--kernel goes with motion_deblur, not {task}.')
    for brought in ('mask', 'kernel'):
        if getattr(given, brought) is not None and parameters:
            raise ValueError(
                f'{", ".join(parameters)} would make a {brought}, but '
                f'--{brought} brings it.'
            )
    if given.kernel is not None:
        images.read_kernel(given.kernel)
    groups.noise_of(given)
    return {
        name: groups.input_sha256(name, path)
        for name in _FILES
        for path in [getattr(given, name)]
        if path is not None
    }


def read(given: Given, prior) -> Problem:
    """The problem of the flags, with its truth where that is known."""
    operator = _operator(given, prior.image_shape)
    if given.image is not None:
        measured = measurement.measure(
            read_truth(given.image, prior),
            operator,
            noise_std=given.noise_std,
            seed=given.seed,
            **groups.noise_of(given),
        )
    else:
        side, _, num_channels = operator.measurement_shape
        y = images.read_exact(
            given.measurement, side, mode='L' if num_channels == 1 else 'RGB'
        )
        measured = problem.from_measurement(
            y, operator, given.noise_std, **groups.noise_of(given)
        )
    return measured.replace(task=given.task)


def read_truth(path, prior) -> np.ndarray:
    """A picture in the prior's size, (H, W, C); says what was done to it."""
    truth, done = images.read_image(path, prior.image_shape[0])
    print(done)
    return truth


def _operator(given: Given, image_shape):
    if given.mask is not None:
        mask = images.read_exact(given.mask, image_shape[0], mode='L')
        return Mask(jnp.asarray(mask > 0, jnp.float32))
    if given.kernel is not None:
        kernel = images.read_kernel(given.kernel)
        height, width = kernel.shape
        return convolution(
            kernel,
            image_shape,
            {'kernel_height': height, 'kernel_width': width},
        )
    return operators.make_operator(
        given.task,
        keys.of_operator(keys.root(given.seed)),
        image_shape,
        **groups.task_parameters(given),
    )

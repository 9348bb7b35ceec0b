"""One measurement, made here of a picture or brought: flags, checks, reading."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from invjax import images, keys, measurement, operators, problem
from invjax.commandline import groups
from invjax.commandline.flags import Flags, Given
from invjax.operators.blur import convolution, inner_convolution
from invjax.operators.mask import Mask
from invjax.problem import Problem

_SECTION = 'measurement'
_FILES = ('image', 'measurement', 'mask', 'kernel')
_BOUNDARIES = ['wrap', 'unknown']


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
        'mask',
        None,
        'For inpainting, with --image or --measurement: which pixels are '
        'observed; see --mask_of.',
        section=_SECTION,
    )
    flags.choice(
        'mask_of',
        'black',
        images.MASKS_OF,
        'What marks a missing pixel of --mask: black, white, transparency or a '
        'colour of paint.',
        section=_SECTION,
    )
    flags.string(
        'kernel',
        None,
        'Of motion_deblur, with --image or --measurement: the blur as a grey '
        'picture or .npy of odd sides, light on black, upright.',
        section=_SECTION,
    )
    flags.boolean(
        'flip_kernel',
        False,
        'Turn --kernel by 180 degrees: for one of a correlation, such as '
        "PyTorch's conv2d.",
        section=_SECTION,
    )
    flags.choice(
        'boundary',
        'wrap',
        _BOUNDARIES,
        'With --kernel, what lies beyond the edges: wrap, the other side, or '
        'unknown, as in a photograph, where the outermost pixels of the '
        'measurement, half a kernel wide, are not used.',
        section=_SECTION,
    )
    define_value_range(flags)
    groups.define_task(flags)
    groups.define_noise(flags)


def define_value_range(flags: Flags) -> None:
    """--value_range; `value_range` reads it."""
    flags.strings(
        'value_range',
        [],
        'Two numbers, the values of the pictures that are black and white. By '
        'default integers have the whole range of their type, and floats 0 to '
        '1.',
        section=_SECTION,
    )


def value_range(given: Given) -> tuple[float, float] | None:
    """The two numbers of --value_range, or None.

    Raises:
        ValueError: for anything but two finite numbers, the first the smaller.
    """
    if not given.value_range:
        return None
    try:
        low, high = map(float, given.value_range)
        right = math.isfinite(low) and math.isfinite(high) and low < high
    except ValueError:
        right = False
    if not right:
        raise ValueError(
            '--value_range must be two numbers, of black and of white, such as '
            f'0,4095, got {",".join(given.value_range)!r}.'
        )
    return low, high


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
    if given.kernel is None and given.boundary != 'wrap':
        raise ValueError('--boundary goes with --kernel.')
    for brought in ('mask', 'kernel'):
        if getattr(given, brought) is not None and parameters:
            raise ValueError(
                f'{", ".join(parameters)} would make a {brought}, but '
                f'--{brought} brings it.'
            )
    if given.kernel is not None:
        images.read_blur_kernel(given.kernel, given.flip_kernel)
    groups.noise_of(given)
    value_range(given)
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
            read_truth(given.image, prior, value_range(given)),
            operator,
            noise_std=given.noise_std,
            seed=given.seed,
            **groups.noise_of(given),
        )
    else:
        reading = images.read_measurement(
            given.measurement,
            operator.measurement_shape,
            problem.is_picture(operator),
            value_range(given),
            np.asarray(operator.support()),
        )
        print(reading.done)
        for warning in _warnings(given, operator, reading.x):
            print(f'warning: {warning}')
        measured = problem.from_measurement(
            reading.x, operator, given.noise_std, **groups.noise_of(given)
        )
    return dataclasses.replace(measured, task=given.task)


def _warnings(given: Given, operator, y: np.ndarray) -> list[str]:
    """What of the flags does not seem to fit the measurement."""
    found = []
    if given.mask is not None:
        found.append(images.check_mask(np.asarray(operator.mask), y))
    if given.noise == 'gaussian' and problem.is_picture(operator):
        observed = np.asarray(operator.support())
        found.append(images.check_noise(y, given.noise_std, observed))
    return [warning for warning in found if warning]


def read_truth(path, prior, value_range=None) -> np.ndarray:
    """A picture in the prior's size, (H, W, C); says what was done to it."""
    height, width, channels = prior.image_shape
    reading = images.read_picture(path, (height, width), channels, value_range)
    print(reading.done)
    return reading.x


def _operator(given: Given, image_shape):
    if given.mask is not None:
        reading = images.read_mask(given.mask, image_shape[:2], given.mask_of)
        print(reading.done)
        return Mask(jnp.asarray(reading.x), image_shape[-1])
    if given.kernel is not None:
        reading = images.read_blur_kernel(given.kernel, given.flip_kernel)
        print(reading.done)
        height, width = reading.x.shape
        blur = convolution if given.boundary == 'wrap' else inner_convolution
        return blur(
            reading.x,
            image_shape,
            {'kernel_height': height, 'kernel_width': width},
        )
    return operators.make_operator(
        given.task,
        keys.of_operator(keys.root(given.seed)),
        image_shape,
        **groups.task_parameters(given),
    )

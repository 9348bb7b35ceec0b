"""One measurement, made here of a picture or brought: flags, checks, reading."""

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import common
from invjax import images, metrics, operators, problem
from invjax.operators.blur import convolution
from invjax.operators.mask import Mask

IMAGE = flags.DEFINE_string(
    'image', None, 'The truth, any picture; it is degraded, then restored.'
)
MEASUREMENT = flags.DEFINE_string(
    'measurement',
    None,
    'Instead of --image: y, of the size that the task measures.',
)
MASK = flags.DEFINE_string(
    'mask', None, 'With --measurement, for inpainting: white is observed.'
)
KERNEL = flags.DEFINE_string(
    'kernel',
    None,
    'Of motion_deblur: the blur as a grey picture of odd sides. It may be '
    'brought with --image or --measurement.',
)
TASK = common.define_task()
NOISE_STD = flags.DEFINE_float(
    'noise_std',
    0.05,
    'Of the noise, in [-1, 1] units (half of it in [0, 1] units).',
    lower_bound=0,
)
common.define_noise()


def check_flags() -> dict[str, str]:
    """Refuse what cannot be, before anything is loaded.

    Returns:
        The SHA-256 of each file that was brought, by the name of its flag.
    """
    task = TASK.value
    if (IMAGE.value is None) == (MEASUREMENT.value is None):
        raise ValueError('give either --image or --measurement.')
    parameters = common.given_task_parameters()
    operators.check_names(task, parameters)
    needs_mask = MEASUREMENT.value is not None and task.endswith('inpainting')
    if needs_mask and MASK.value is None:
        raise ValueError(f'{task} of a --measurement needs --mask.')
    if MASK.value is not None and not needs_mask:
        raise ValueError(
            '--mask goes with --measurement and a task of inpainting.'
        )
    if needs_mask and parameters:
        raise ValueError(
            f'{", ".join(parameters)} would make a mask, but --mask brings it.'
        )
    if KERNEL.value is not None:
        if task != 'motion_deblur':
            raise ValueError(f'--kernel goes with motion_deblur, not {task}.')
        if parameters:
            raise ValueError(
                f'{", ".join(parameters)} would make a kernel, but --kernel '
                'brings it.'
            )
        images.read_kernel(KERNEL.value)
    common.given_noise()
    return {
        flag.name: common.input_sha256(flag.value)
        for flag in (IMAGE, MEASUREMENT, MASK, KERNEL)
        if flag.value is not None
    }


def read(prior) -> tuple[np.ndarray | None, problem.Problem]:
    """The truth, or None, and the problem."""
    operator = _operator(prior.image_shape)
    if IMAGE.value is not None:
        truth = common.read_truth(IMAGE.value, prior)
        return truth, common.measure(
            truth, TASK.value, NOISE_STD.value, operator
        )
    blank = jnp.zeros(prior.image_shape)
    side, _, num_channels = jax.eval_shape(operator.forward, blank).shape
    y = images.read_exact(
        MEASUREMENT.value, side, mode='L' if num_channels == 1 else 'RGB'
    )
    return None, problem.from_measurement(
        y, operator, NOISE_STD.value, **common.given_noise()
    )


def _operator(image_shape):
    if MASK.value is not None:
        mask = images.read_exact(MASK.value, image_shape[0], mode='L')
        return Mask(jnp.asarray(mask > 0, jnp.float32))
    if KERNEL.value is not None:
        kernel = images.read_kernel(KERNEL.value)
        height, width = kernel.shape
        return convolution(
            kernel,
            image_shape,
            {'kernel_height': height, 'kernel_width': width},
        )
    return common.make_operator(TASK.value, image_shape)


def scores(x, truth, inverse_problem) -> dict[str, float]:
    """PSNR in dB and SSIM against the truth; residual against the noise."""
    residual = float(inverse_problem.residual_norm(jnp.clip(x, -1, 1)))
    found = {
        'residual_norm': residual,
        'expected_residual_norm': float(
            inverse_problem.expected_residual_norm()
        ),
    }
    if truth is not None:
        found['psnr'] = float(metrics.psnr(x, truth))
        found['ssim'] = float(metrics.ssim(x, truth))
    return found


def protocol(inverse_problem, input_sha256) -> dict:
    """What a result's record says of its measurement."""
    return {
        'task': TASK.value,
        'noise_std': NOISE_STD.value,
        'noise_unit': '[-1, 1]',
        'noise': {
            **(common.given_noise() or {'noise': 'gaussian'}),
            'effective_std': float(inverse_problem.noise_std),
        },
        'noise_on_masked_pixels': False,
        'operator': inverse_problem.operator.describe(),
        'input_sha256': input_sha256,
    }

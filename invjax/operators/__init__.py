"""Degradations: how a measurement comes about from an image.

What an operator is says `invjax.types`; each is a pytree, and they compose:
`blur >> downsampling`. A task is a function of a key, the image's shape (H, W, C) and its own
keyword arguments that returns one. A line here makes it a choice of `--task`,
a row of the contract tests and a row of the tables.
"""

import inspect
import typing
from collections.abc import Iterable

import jax

from invjax.operators.blur import gaussian_deblur, motion_deblur
from invjax.operators.colour import colorization
from invjax.operators.downsample import super_resolution
from invjax.operators.function import Function, Linear
from invjax.operators.mask import box_inpainting, denoising, random_inpainting
from invjax.operators.nonlinear import (
    high_dynamic_range,
    jpeg,
    nonlinear_deblur,
    phase_retrieval,
)
from invjax.operators.projection import compressed_sensing

OPERATORS = {
    'gaussian_deblur': gaussian_deblur,
    'box_inpainting': box_inpainting,
    'random_inpainting': random_inpainting,
    'denoising': denoising,
    'motion_deblur': motion_deblur,
    'super_resolution': super_resolution,
    'colorization': colorization,
    'compressed_sensing': compressed_sensing,
    'phase_retrieval': phase_retrieval,
    'high_dynamic_range': high_dynamic_range,
    'jpeg': jpeg,
    'nonlinear_deblur': nonlinear_deblur,
}

__all__ = [
    'OPERATORS',
    'Function',
    'Linear',
    'check_names',
    'make_operator',
    'parameters',
]


def parameters(task: str) -> dict[str, type]:
    """A task's own keyword arguments: name to int, float or str."""
    if task not in OPERATORS:
        raise ValueError(
            f'task must be one of {", ".join(OPERATORS)}, got {task!r}.'
        )
    signature = inspect.signature(OPERATORS[task])
    hints = typing.get_type_hints(OPERATORS[task])
    found = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            # `int | None` is an int with a default in proportion to the image.
            kinds = typing.get_args(hints[name])
            found[name] = kinds[0] if kinds else hints[name]
    return found


def check_names(task: str, names: Iterable[str]) -> None:
    """Refuse, with a ValueError, what are no parameters of a task."""
    known = parameters(task)
    for name in names:
        if name not in known:
            raise ValueError(
                f'{task} has no parameter {name!r}; '
                f'it has {", ".join(known) or "none"}.'
            )


def make_operator(
    task: str, key: jax.Array, image_shape: tuple[int, int, int], **kwargs
):
    """The operator of a task for one image.

    Args:
        task: a name of OPERATORS.
        key: for what is random in it, such as the place of a box.
        image_shape: (H, W, C).
        **kwargs: the task's own; those left out have its defaults.

    Raises:
        ValueError: for an unknown task, a name that the task does not have, or
            a value out of its range.
    """
    check_names(task, kwargs)
    return OPERATORS[task](key, image_shape, **kwargs)

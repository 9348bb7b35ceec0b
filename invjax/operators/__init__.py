"""Degradations: how a measurement comes about from an image.

An operator is a pytree that keeps one of the protocols of `invjax.types`:

    Operator            image_shape, measurement_shape   declared, static
                        forward(x) -> y     A(x)
                        guess(y) -> x       an image of that shape, no more
                        support() -> array  1 where y carries data, else 0
                        describe() -> dict  its parameters, for a record
    LinearOperator      adjoint(y) -> x     A^T y
    SpectralOperator    pinv(y) -> x        A^+ y, which `guess` is then too
                        spectrum()          inner problems in closed form
    MaskOperator        mask_of_x()         values of x are measured as they are

`first >> then` is an operator as well, see `base.py`. A task is a function of a
key, the image's shape (H, W, C) and its own keyword arguments, annotated as
int, float or str, that returns an operator; what it resolved them to is in the
operator's description. A line here makes it a choice of `--task`, a row of the
contract tests and a row of the tables.
"""

import inspect
import types
import typing
from collections.abc import Callable, Iterable

import jax

from invjax.operators.base import check_operator, compose
from invjax.operators.blur import gaussian_deblur, motion_deblur
from invjax.operators.bounds import check_image_shape
from invjax.operators.colour import colorization
from invjax.operators.downsample import super_resolution
from invjax.operators.function import Function, Linear
from invjax.operators.mask import (
    Mask,
    box_inpainting,
    denoising,
    random_inpainting,
)
from invjax.operators.nonlinear import (
    high_dynamic_range,
    jpeg,
    nonlinear_deblur,
    phase_retrieval,
)
from invjax.operators.projection import compressed_sensing
from invjax.types import Operator

OPERATORS: dict[str, Callable[..., Operator]] = {
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
    'Mask',
    'check_names',
    'check_operator',
    'compose',
    'make_operator',
    'parameters',
]


def parameters(task: str) -> dict[str, type]:
    """A task's own keyword arguments: name to int, float or str.

    Raises:
        ValueError: for an unknown task, or an argument annotated otherwise.
    """
    if task not in OPERATORS:
        raise ValueError(
            f'task must be one of {", ".join(OPERATORS)}, got {task!r}.'
        )
    # Annotations may be strings, as `from __future__ import annotations` makes
    # them.
    hints = typing.get_type_hints(OPERATORS[task])
    signature = inspect.signature(OPERATORS[task])
    found = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            found[name] = _kind(task, name, hints.get(name))
    return found


def _kind(task, name, hint):
    """int, float or str, of an annotation."""
    # `int | None` is an int with a default in proportion to the image.
    kinds = set(typing.get_args(hint) or [hint]) - {types.NoneType}
    if len(kinds) != 1 or not kinds <= {int, float, str}:
        raise ValueError(
            f'{name} of {task} must be annotated as int, float or str, or one '
            f'of them | None, got {hint}.'
        )
    return kinds.pop()


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
    task: str, key: jax.Array, image_shape: tuple[int, ...], **kwargs
) -> Operator:
    """The operator of a task for one image.

    Args:
        task: a name of OPERATORS.
        key: for what is random in it, such as the place of a box.
        image_shape: (H, W, C).
        **kwargs: the task's own; those left out have its defaults.

    Raises:
        ValueError: for an unknown task, a name that the task does not have, a
            value out of its range, or an image_shape that is none.
    """
    check_names(task, kwargs)
    image_shape = check_image_shape(image_shape)
    return OPERATORS[task](key, image_shape, **kwargs)

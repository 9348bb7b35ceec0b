"""Measurements made of pictures, by the name of a task or by an operator."""

import dataclasses
import os

import jax

from invjax import images, keys, operators, problem
from invjax.problem import Problem


def measure(
    truth: jax.typing.ArrayLike | str | os.PathLike,
    task,
    *,
    noise_std: float = 0.05,
    noise: str = 'gaussian',
    seed: int | jax.Array = 0,
    image: int = 0,
    size: int | None = None,
    **parameters,
) -> Problem:
    """Degrade a picture, as a task says or by an operator of one's own.

    Args:
        truth: (H, W, C) in [-1, 1], or the path of a picture, of which the
            middle square is taken.
        task: a name of `invjax.tasks`, or an operator (`invjax.types`).
        noise_std: () in [-1, 1] units, 0 or more.
        noise: one of `problem.NOISES`, added to the former if it is not
            Gaussian.
        seed: of everything random, or a key.
        image: number of the image in a data set, which has its own keys.
        size: side of the picture that is read from a path, in pixels.
        **parameters: the task's own, and those of the kind of noise.

    Returns:
        The problem, with the truth and the task on record.

    Raises:
        ValueError: for a name that there is not, or a value out of its range,
            those of the image among them. `problem.measure` takes any.
    """
    root = keys.root(seed)
    of_noise = {
        name: parameters.pop(name)
        for name in problem.NOISES.get(noise, ())
        if name in parameters
    }
    problem.check_noise(noise, **of_noise)
    if isinstance(task, str):
        operators.check_names(task, parameters)
    elif parameters:
        raise ValueError(
            f'{", ".join(parameters)} cannot be given with an operator, which '
            'has its parameters already.'
        )
    if isinstance(truth, str | os.PathLike):
        if size is None:
            raise ValueError('size must be given with the path of a picture.')
        truth = images.read_picture(truth, (size, size)).x
    truth = problem.floats(truth, 'the image')
    _check_range(truth)
    operator = task
    if isinstance(task, str):
        operator = operators.make_operator(
            task, keys.of_operator(root, image), truth.shape, **parameters
        )
    measured = problem.measure(
        keys.of_noise(root, image),
        truth,
        operator,
        noise_std,
        noise,
        **of_noise,
    )
    return dataclasses.replace(
        measured, truth=truth, task=task if isinstance(task, str) else None
    )


def _check_range(truth: jax.Array) -> None:
    """Refuse what is no image in [-1, 1], such as floats from 0 to 255."""
    low, high = float(truth.min()), float(truth.max())
    # A resized picture may be beyond it by rounding. NaN is refused elsewhere.
    if max(-low, high) > 1 + 1e-3:
        raise ValueError(
            'the image must be in [-1, 1], from black to white, got values from '
            f'{low:g} to {high:g}.'
        )

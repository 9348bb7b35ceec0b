"""Methods that turn an unconditional prior into a restoration.

One paper a file: a factory, whose keyword arguments are the method's own, that
returns a `Conditioner`. Positional ones are numbers, may be traced, and are
what a sweep goes over; keyword-only ones are choices of a name. A line here
makes a method a choice of `--method`, a row of the contract tests and a row of
the tables.
"""

import inspect

from invjax.conditioners.base import Conditioner, Info
from invjax.conditioners.dps import dps
from invjax.conditioners.score_ald import score_ald
from invjax.conditioners.sdedit import sdedit
from invjax.conditioners.unconditional import unconditional
from invjax.diffusion import Transition

CONDITIONERS = {
    'unconditional': unconditional,
    'sdedit': sdedit,
    'score_ald': score_ald,
    'dps': dps,
}

__all__ = [
    'CONDITIONERS',
    'Conditioner',
    'Info',
    'hyperparameters',
    'make_conditioner',
    'split_settings',
]

# The fields of `Transition`, which every method has, under the names that
# flags and settings use.
_TRANSITION = {
    'transition': 'kind',
    'variance': 'variance',
    'clip': 'clip',
    'eta': 'eta',
}


def _factory(method: str):
    if method not in CONDITIONERS:
        raise ValueError(
            f'method must be one of {", ".join(CONDITIONERS)}, got {method!r}.'
        )
    return CONDITIONERS[method]


def hyperparameters(method: str) -> dict:
    """A method's own hyperparameters and choices, name to default value."""
    signature = inspect.signature(_factory(method))
    return {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if name != 'transition'
    }


def split_settings(method: str, settings: dict) -> tuple[dict, dict]:
    """Part what a sweep may trace from what is a choice of a name.

    Args:
        method: a name of CONDITIONERS.
        settings: of the method and of its transition, name to value.

    Returns:
        Two dicts, of numbers and of choices (strings and booleans).

    Raises:
        ValueError: for an unknown method or a name that it does not have.
    """
    own = hyperparameters(method)
    for name in settings:
        if name not in own and name not in _TRANSITION:
            raise ValueError(
                f'{method} has no hyperparameter {name!r}; it has '
                f'{", ".join([*own, *_TRANSITION])}.'
            )
    choices = {n: v for n, v in settings.items() if isinstance(v, str | bool)}
    numbers = {n: v for n, v in settings.items() if n not in choices}
    return numbers, choices


def make_conditioner(method: str, **settings) -> Conditioner:
    """A method with the given hyperparameters; the others have their defaults.

    Args:
        method: a name of CONDITIONERS.
        **settings: the method's own, and those of its transition:
            `transition` (`'ddpm'` or `'ddim'`), `variance`, `clip`, `eta`.

    Raises:
        ValueError: for an unknown method, a name that it does not have, or a
            choice that there is not.
    """
    split_settings(method, settings)
    own = {n: v for n, v in settings.items() if n not in _TRANSITION}
    transition = Transition(
        **{_TRANSITION[n]: v for n, v in settings.items() if n in _TRANSITION}
    )
    return _factory(method)(**own, transition=transition)

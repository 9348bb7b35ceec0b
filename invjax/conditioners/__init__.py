"""Methods that turn an unconditional prior into a restoration.

One paper a file: a factory, whose keyword arguments are the method's own, that
returns a `Conditioner`. Positional ones are numbers, may be traced, are what a
sweep goes over, and have their range in their annotation (`base.Range`);
keyword-only ones are choices of a name. A line here makes a method a choice of
`--method`, a row of the contract tests and a row of the tables.
"""

import inspect
from collections.abc import Mapping

import jax
import numpy as np

from invjax.conditioners.admm_tv import admm_tv
from invjax.conditioners.ald import ald
from invjax.conditioners.base import FRACTION, Conditioner, Info, Range, Size
from invjax.conditioners.c_pigdm import c_pigdm
from invjax.conditioners.daps import daps
from invjax.conditioners.ddnm import ddnm
from invjax.conditioners.ddrm import ddrm
from invjax.conditioners.diffpir import diffpir
from invjax.conditioners.dip import dip
from invjax.conditioners.dmps import dmps
from invjax.conditioners.dps import dps
from invjax.conditioners.mcg import mcg
from invjax.conditioners.pigdm import pigdm
from invjax.conditioners.pnp import hqs, pnp_admm
from invjax.conditioners.reddiff import reddiff
from invjax.conditioners.repaint import repaint
from invjax.conditioners.score_ald import score_ald
from invjax.conditioners.sdedit import sdedit
from invjax.conditioners.sitcom import sitcom
from invjax.conditioners.tds import tds
from invjax.conditioners.tmpd import tmpd
from invjax.conditioners.unconditional import unconditional
from invjax.conditioners.wiener import wiener
from invjax.diffusion import Transition

CONDITIONERS = {
    'unconditional': unconditional,
    'sdedit': sdedit,
    'score_ald': score_ald,
    'ald': ald,
    'dps': dps,
    'mcg': mcg,
    'pigdm': pigdm,
    'c_pigdm': c_pigdm,
    'tmpd': tmpd,
    'dmps': dmps,
    'ddnm': ddnm,
    'ddrm': ddrm,
    'diffpir': diffpir,
    'daps': daps,
    'reddiff': reddiff,
    'sitcom': sitcom,
    'repaint': repaint,
    'tds': tds,
    'wiener': wiener,
    'admm_tv': admm_tv,
    'hqs': hqs,
    'pnp_admm': pnp_admm,
    'dip': dip,
}

# What a method asks of an operator, by the name of its attribute, where it asks
# for more than `forward`; a choice of a name may ask for less.
_NEEDS = {
    'mcg': 'adjoint',
    'pigdm': 'adjoint',
    'c_pigdm': 'spectrum',
    'tmpd': 'adjoint',
    'dmps': 'adjoint',
    'ddnm': 'spectrum',
    'ddrm': 'spectrum',
    'diffpir': 'adjoint',
    'daps': 'adjoint',
    'repaint': 'mask_of_x',
    'tds': 'adjoint',
    'wiener': 'adjoint',
    'admm_tv': 'adjoint',
    'hqs': 'adjoint',
    'pnp_admm': 'adjoint',
}
_NEEDED_FOR = {
    'adjoint': 'a linear operator',
    'spectrum': 'a linear operator with a spectrum',
    'mask_of_x': 'a mask',
}

__all__ = [
    'CONDITIONERS',
    'Conditioner',
    'Info',
    'check_operator',
    'check_settings',
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
        Two dicts, of numbers and of choices: strings, booleans, and whole
        numbers that set a shape (`base.Size`).

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
    sizes = _sizes(method)
    choices = {
        name: int(value) if name in sizes and np.ndim(value) == 0 else value
        for name, value in settings.items()
        if name in sizes or isinstance(value, str | bool)
    }
    numbers = {n: v for n, v in settings.items() if n not in choices}
    return numbers, choices


def check_settings(
    method: str,
    numbers: Mapping[str, jax.typing.ArrayLike],
    num_train_steps: int | None = None,
) -> None:
    """Refuse hyperparameters that are out of their range.

    Args:
        method: a name of CONDITIONERS.
        numbers: of the method and of its transition, name to one value or an
            array of them. What is traced has no value yet, and passes.
        num_train_steps: T of the prior, for hyperparameters that are timesteps;
            None as long as it is not known.

    Raises:
        ValueError: for an unknown method, a name that it does not have, or a
            value out of its range.
    """
    split_settings(method, numbers)
    last_t = np.inf if num_train_steps is None else num_train_steps - 1
    ranges = {'eta': FRACTION, **_ranges(method)}
    for name, values in numbers.items():
        if name not in ranges or isinstance(values, jax.core.Tracer):
            continue
        values = np.asarray(values, np.float64).ravel()
        bad = values[~ranges[name].contains(values, last_t)]
        if bad.size:
            must_be = ranges[name].words.format(
                last_t='T - 1' if num_train_steps is None else last_t
            )
            raise ValueError(
                f'{name} of {method} must be {must_be}, got {bad[0]:g}.'
            )


def check_operator(method: str, operator, settings: Mapping = {}) -> None:
    """Refuse an operator that a method cannot do.

    Args:
        method: a name of CONDITIONERS.
        operator: see `invjax.operators`.
        settings: of the method; some choices of a name ask for less.

    Raises:
        ValueError: with the names of the methods that can do it.
    """
    if _lacks(method, operator, settings):
        able = [name for name in CONDITIONERS if not _lacks(name, operator, {})]
        raise ValueError(
            f'{method} needs {_NEEDED_FOR[_NEEDS[method]]}, which '
            f'{type(operator).__name__} is not; these methods can do it: '
            f'{", ".join(able)}.'
        )


def _lacks(method: str, operator, settings: Mapping) -> bool:
    if settings.get('draw') == 'langevin':
        return False
    needed = _NEEDS.get(method)
    return needed is not None and not hasattr(operator, needed)


def _sizes(method: str) -> set[str]:
    """The names of a method's whole numbers that set a shape."""
    parameters = inspect.signature(_factory(method)).parameters
    return {n for n, p in parameters.items() if p.annotation == Size}


def _ranges(method: str) -> dict[str, Range]:
    parameters = inspect.signature(_factory(method)).parameters
    return {
        name: found
        for name, parameter in parameters.items()
        for found in getattr(parameter.annotation, '__metadata__', ())
        if isinstance(found, Range)
    }


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

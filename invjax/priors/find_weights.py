"""Finds a network's weights in what a checkpoint holds, whatever wraps them.

Code bases keep weights under keys of their own, put prefixes in front of names,
and keep averages of the weights beside them: as a second state dict, under names
that have lost their dots, or as a list without names. Averaged weights are the
ones to sample with, and a picture made with the others looks only a little
wrong. So every network in the file is found by its structure; an average is
preferred; and what looks like one without being understood is refused.
"""

import functools
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from invjax.priors.excerpts import excerpt, listing
from invjax.priors.pickled import Object

# The first of a network's own names, by which it is known: guided-diffusion's
# and diffusers'. What is in front of one is a prefix.
_FIRST_NAMES = ('time_embed.0.weight', 'time_embedding.linear_1.weight')

# Parts of a name that wrappers add, in front or inside: DataParallel, FSDP and
# AveragedModel; torch.compile; and what a pickled module keeps its parts in.
_ADDED_PARTS = {
    'module',
    '_orig_mod',
    '_fsdp_wrapped_module',
    '_checkpoint_wrapped_module',
    '_forward_module',
    '_modules',
    '_parameters',
    '_buffers',
}
# For networks that are not known by a name: keys under which weights are, in
# order of preference, and prefixes that every name may have.
_WRAPPERS = ('state_dict', 'model_state_dict', 'model', 'params', 'net')
_COMMON_PREFIXES = ('model.', 'net.', 'network.', 'unet.', 'diffusion_model.')

_WORD = r'(?:^|[^a-z])(?:{})(?:[^a-z]|$)'
_AVERAGED = re.compile(
    _WORD.format(
        r'ema(?:model|net|unet|params|weights|state)?s?|(?:model|net|unet)ema'
        r'|swa|polyak|ewma|shadow|(?<!exp_)avg|averaged?|averages'
    )
)
# What an average is of, what was put aside for it, or what says that it is none:
# `ema.online_model`, `collected_params`, `model_no_ema`.
_NOT_AVERAGED = re.compile(
    _WORD.format('online|raw|collected|current|backup|(?:no|non|pre)_?ema')
)
_CAMEL_HUMP = re.compile(r'(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])')

TOP_LEVEL = 'top level'
_MAX_DEPTH = 32
_MAX_TENSORS = 20_000
_MAX_NETWORKS = 16
_MAX_NAME = 500
_MAX_PARTS = 64


class NotFoundError(ValueError):
    """No weights, or none to prefer; the message lacks its subject, the file."""


class Weights(NamedTuple):
    """The weights of one network in a file.

    Attributes:
        key: where they are: the keys that lead to them and the prefix that
            their names have lost, joined by dots; or `TOP_LEVEL`.
        tensors: by name, in the file's order.
        averaged: whether they are an average over the training.
    """

    key: str
    tensors: dict[str, Any]
    averaged: bool


class _Found(NamedTuple):
    """A tensor in the file.

    Attributes:
        name: the keys that lead to it, joined by dots, without added parts.
        container: the same without the last key.
        tensor: None for numbers in bulk that are no tensor.
        is_named: whether its last key is a string.
    """

    name: str
    container: str
    tensor: Any
    is_named: bool

    @property
    def is_bulk(self) -> bool:
        return self.tensor is None or math.prod(self.tensor.shape) > 1


def find(
    content: Any,
    tensor_type: type,
    load: Callable[[str, Any], np.ndarray],
    key: str | None = None,
) -> Weights:
    """Find the weights to sample with.

    Args:
        content: what the file holds: nested dicts, lists, tuples and `Object`s.
        tensor_type: of the tensors in it, which have a `shape`.
        load: from a name and a tensor to its numbers, where two are compared.
        key: takes the weights at this place (`Weights.key`), or the only ones
            below it, rather than averaged ones.

    Raises:
        NotFoundError: there are none, or several to choose from, or some that
            look averaged and are not understood.
    """
    found = _all_tensors(content, tensor_type)
    if any('first_stage_model' in f.name.split('.') for f in found):
        raise NotFoundError(
            'is a latent diffusion model (it has a first_stage_model), whose'
            ' network denoises codes; a prior must denoise pictures.'
        )
    is_known = any(_prefix(f.name) is not None for f in found)
    networks, others = _networks(found, is_known)
    if _is_ddim_list(content):
        networks = [
            n._replace(averaged=n.averaged or n.key == '4') for n in networks
        ]
    networks += _averages(others, networks, all_must_be_understood=key is None)
    if not networks:
        raise NotFoundError(
            f'must have tensors by name, but it holds {_describe(content)}.'
        )
    if key is not None:
        weights = _chosen(networks, key)
    else:
        weights = _preferred(networks, is_known, load)
    return weights if is_known else _without_common_prefix(weights)


def _all_tensors(content, tensor_type) -> list[_Found]:
    """Every tensor that nested containers hold, once, by its first path."""
    containers = (dict, list, tuple, Object)
    found: list[_Found] = []
    visited = set()

    def note(tensor, path):
        if len(found) == _MAX_TENSORS:
            raise NotFoundError(f'has more than {_MAX_TENSORS:,} tensors.')
        name = '.'.join(map(str, path))
        if len(name) > _MAX_NAME or name.count('.') >= _MAX_PARTS:
            raise NotFoundError(
                f'has a name of more than {_MAX_NAME} characters or'
                f' {_MAX_PARTS} parts.'
            )
        container = '.'.join(map(str, path[:-1]))
        is_named = bool(path) and type(path[-1]) is str
        found.append(_Found(_bare(name), _bare(container), tensor, is_named))

    def visit(value, path):
        kind = type(value)
        if kind is tensor_type:
            note(value, path)
        elif kind is memoryview and len(value) > 1000:
            note(None, path)
        elif kind in containers and id(value) not in visited:
            visited.add(id(value))
            if len(path) > _MAX_DEPTH:
                raise NotFoundError(f'is nested more than {_MAX_DEPTH} deep.')
            visit_inside(value, path)

    def visit_inside(value, path):
        if isinstance(value, dict):
            if {'state', 'param_groups'} <= value.keys():
                return  # an optimiser's, which has averages of its own
            items: Iterable[tuple] = value.items()
        else:
            items = enumerate(value)
        for part, inner in items:
            if type(inner) in to_visit:
                visit(inner, (*path, part))
        if type(value) is Object:
            if value.name.endswith(('._reconstruct', '._frombuffer')):
                note(None, path)  # an array of NumPy
            visit(value.args, (*path, 'args'))
            visit(value.elements, (*path, 'elements'))
            visit(value.state, path)

    to_visit = {tensor_type, memoryview, *containers}
    visit(content, ())
    return found


def _bare(name: str) -> str:
    parts = name.split('.')
    return '.'.join(part for part in parts if part not in _ADDED_PARTS)


def _is_ddim_list(content) -> bool:
    """Whether it is the list that Song et al.'s (2021) code saves.

    That is the weights, the optimiser, the epoch, the step, and the average.
    """
    return (
        type(content) is list
        and len(content) == 5
        and type(content[2]) is type(content[3]) is int
    )


def _prefix(name: str) -> str | None:
    """What is in front of a network's first name, if this ends with one."""
    for first in _FIRST_NAMES:
        if name == first or name.endswith(f'.{first}'):
            return name.removesuffix(first)
    return None


def _networks(
    found: list[_Found], is_known: bool
) -> tuple[list[Weights], list[_Found]]:
    """Sort tensors into networks, by prefix, and others."""
    if is_known:
        prefixes = [_prefix(f.name) for f in found]
    else:
        prefixes = [
            f.container and f'{f.container}.' for f in found if f.is_named
        ]
    networks = {
        prefix: Weights(
            key=prefix.rstrip('.') or TOP_LEVEL,
            tensors={},
            averaged=_average_in(prefix.rstrip('.')) is not None,
        )
        for prefix in prefixes
        if prefix is not None
    }
    if len(networks) > _MAX_NETWORKS:
        raise NotFoundError(
            f'has more than {_MAX_NETWORKS} networks, or parts that each look'
            ' like one; save the weights of one as a state dict.'
        )
    others = []
    for f in found:
        inside = [p for p in networks if f.name.startswith(p)]
        if f.tensor is None or not f.is_named or not inside:
            others.append(f)
            continue
        prefix = max(inside, key=len)
        name = f.name.removeprefix(prefix)
        if name == 'n_averaged':
            # Only an average has it, of PyTorch's swa_utils.
            networks[prefix] = networks[prefix]._replace(averaged=True)
        elif _average_in(name) is not None:
            others.append(f)
        # Weights belong to layers; a list of numbers in none is a schedule's.
        elif not is_known or '.' in name or len(f.tensor.shape) > 1:
            tensors = networks[prefix].tensors
            if tensors.setdefault(name, f.tensor) is not f.tensor:
                raise NotFoundError(
                    f"has '{excerpt(name)}' twice: with and without what a"
                    ' wrapper such as module. or _orig_mod. adds to names.'
                )
    return [n for n in networks.values() if n.tensors], others


def _average_in(name: str) -> str | None:
    """A name up to the last part that says it is an average; None if none."""
    parts = name.split('.')
    for i in reversed(range(len(parts))):
        is_averaged = _says_averaged(parts[i])
        if is_averaged is not None:
            return '.'.join(parts[: i + 1]) if is_averaged else None
    return None


@functools.lru_cache(maxsize=10_000)
def _says_averaged(part: str) -> bool | None:
    """What a part of a name says of averaging; None where it says nothing."""
    word = _CAMEL_HUMP.sub('_', part).lower()
    if _NOT_AVERAGED.search(word):
        return False
    return True if _AVERAGED.search(word) else None


def _averages(
    others: list[_Found],
    networks: list[Weights],
    all_must_be_understood: bool,
) -> list[Weights]:
    """Averages without names of their own, named after a network beside."""
    groups: dict[str, list[_Found]] = {}
    for f in others:
        average = _average_in(f.name) if f.is_bulk else None
        if average is not None:
            groups.setdefault(average, []).append(f)
    averages = []
    for key, group in groups.items():
        tensors = {f.name[len(key) + 1 :]: f.tensor for f in group}
        named = None
        if None not in tensors.values():
            named = _from_list(tensors, networks)
            named = named or _from_names_without_dots(tensors, networks)
        if named is not None:
            averages.append(Weights(key, named, averaged=True))
        elif all_must_be_understood:
            # Of which the user may take one in its place.
            keys = listing((n.key for n in networks), 40)
            raise NotFoundError(
                f"has what looks like averaged weights, '{excerpt(key, 50)}',"
                ' in a form that is not known; save them as a state dict, or'
                f' set weights_key to other weights ({keys or "none found"}).'
            )
    return averages


def _from_list(tensors: dict, networks: list[Weights]) -> dict | None:
    """Name the elements of a list in the order of a network's parameters."""
    heads, _, numbers = zip(
        *(name.rpartition('.') for name in tensors), strict=True
    )
    if len(set(heads)) > 1 or list(numbers) != list(
        map(str, range(len(numbers)))
    ):
        return None
    shapes = [tensor.shape for tensor in tensors.values()]
    for network in networks:
        if len(shapes) != len(network.tensors):
            continue
        if shapes == [tensor.shape for tensor in network.tensors.values()]:
            return dict(zip(network.tensors, tensors.values(), strict=True))
    return None


def _from_names_without_dots(
    tensors: dict, networks: list[Weights]
) -> dict | None:
    """Give dots back to names, as LitEma of latent diffusion drops them."""
    for network in networks:
        if len(tensors) != len(network.tensors):
            continue
        squeezed = {name.replace('.', ''): name for name in network.tensors}
        first = next(iter(squeezed))
        ahead = [name for name in tensors if name.endswith(first)]
        for prefix in {name.removesuffix(first) for name in ahead[:4]}:
            if {prefix + name for name in squeezed} == tensors.keys():
                return {
                    name: tensors[prefix + short]
                    for short, name in squeezed.items()
                }
    return None


def _chosen(networks: list[Weights], key: str) -> Weights:
    fitting = [n for n in networks if n.key == key]
    fitting = fitting or [n for n in networks if n.key.startswith(f'{key}.')]
    if len(fitting) != 1:
        keys = listing(n.key for n in fitting or networks)
        raise NotFoundError(
            f'has {len(fitting)} networks at weights_key {excerpt(key)!r}; it'
            f' must be one of {keys}.'
        )
    return fitting[0]


def _preferred(networks: list[Weights], is_known: bool, load) -> Weights:
    averaged = [n for n in networks if n.averaged]
    choices = averaged or networks
    if not is_known:
        ranks = [_rank(n.key) for n in choices]
        choices = [
            n for n, r in zip(choices, ranks, strict=True) if r == min(ranks)
        ]
    if not all(_same(choices[0], other, load) for other in choices[1:]):
        kind = 'averaged networks' if averaged else 'networks'
        raise NotFoundError(
            f'has {len(choices)} {kind} of different weights; set weights_key'
            f' to one of {listing(n.key for n in choices)}.'
        )
    return choices[0]


def _rank(key: str) -> int:
    last = key.rpartition('.')[2]
    return _WRAPPERS.index(last) if last in _WRAPPERS else len(_WRAPPERS)


def _same(network: Weights, other: Weights, load) -> bool:
    if network.tensors.keys() != other.tensors.keys():
        return False
    for name, tensor in network.tensors.items():
        if tensor.shape != other.tensors[name].shape:
            return False
        array, other_array = load(name, tensor), load(name, other.tensors[name])
        if array.dtype != other_array.dtype:
            return False
        # As bytes, for which NaN is what it is.
        if array.tobytes() != other_array.tobytes():
            return False
    return True


def _without_common_prefix(weights: Weights) -> Weights:
    tensors = weights.tensors
    while True:
        common = [
            prefix
            for prefix in _COMMON_PREFIXES
            if all(name.startswith(prefix) for name in tensors)
        ]
        if not common:
            return weights._replace(tensors=tensors)
        tensors = {
            name.removeprefix(common[0]): tensor
            for name, tensor in tensors.items()
        }


def _describe(content: Any) -> str:
    if type(content) is Object:
        return f'one object of {excerpt(content.name)}'
    if content is None:
        return 'nothing'
    if type(content) is not dict:
        return f'one {type(content).__name__.lower()}'
    keys = [f"'{key}'" for key in content if type(key) is str]
    return f'the keys {listing(keys)}' if keys else 'no named entries'

"""The network of a run and its first parameters, new or of another prior."""

import dataclasses
import re
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from invjax.priors import checkpoint, families
from invjax.priors.denoiser import Denoiser
from invjax.priors.unet import NetworkPrior, UNet
from invjax.training.config import Config, check_attention

# Layers that begin at zero, so that each block begins as the identity and the
# network with the prediction 0 (Dhariwal and Nichol's code).
_ZERO = re.compile(r'out_layers_3|proj_out|^out_2')


class Start(NamedTuple):
    """What training begins with.

    Attributes:
        prior: the network, its first parameters, and its noise schedule.
        words: a sentence on where they come from.
        origin: the card of the prior that is gone on from, or None.
    """

    prior: NetworkPrior | Denoiser
    words: str
    origin: dict[str, Any] | None


def make_start(config: Config) -> Start:
    """The network of a run and its first parameters.

    Raises:
        ValueError: if the network does not fit the images, or the prior to go
            on from is none, or does not fit.
    """
    if config.init is None:
        return _new(config)
    return _of_prior(config.init, config)


def _new(config: Config) -> Start:
    factor = 2 if config.learned_variance else 1
    network = UNet(
        image_size=config.size[0],
        in_channels=config.channels,
        out_channels=factor * config.channels,
        dtype=jnp.dtype(config.dtype),
        remat=config.remat,
        **config.network_fields(),
    )
    _check_size(network, config)
    params = first_parameters(network, config.image_shape, config.seed)
    prior = NetworkPrior(
        params,
        network,
        noise_schedule=config.noise_schedule or 'linear',
        num_train_steps=config.num_train_steps or 1000,
    )
    return Start(prior, 'new parameters', None)


def first_parameters(network, image_shape, seed: int) -> dict:
    """New parameters of a network; see `_ZERO`."""

    @jax.jit
    def init(key):
        return network.init(key, jnp.zeros(image_shape), 0)['params']

    try:
        params = init(jax.random.fold_in(jax.random.key(seed), 0))
    except (TypeError, ZeroDivisionError) as error:
        # Shapes that do not meet are found by JAX, in many sentences.
        raise ValueError(
            f'the network cannot be built for images of {image_shape}: '
            f'{str(error).splitlines()[0]}'
        ) from None
    return dict(
        flax.traverse_util.path_aware_map(
            lambda path, leaf: (
                jnp.zeros_like(leaf)
                if any(_ZERO.search(str(part)) for part in path)
                else leaf
            ),
            params,
        )
    )


def _check_size(network: UNet, config: Config) -> None:
    coarsest = 2 ** (len(network.channel_mult) - 1)
    if config.size[0] % coarsest:
        raise ValueError(
            f'a network of {len(network.channel_mult)} levels needs sides that '
            f'are divisible by {coarsest}, got {config.size[0]}; take another '
            'size or a shorter channel_mult.'
        )


def _of_prior(init: str, config: Config) -> Start:
    given = checkpoint.load_prior(
        init, dtype=jnp.dtype(config.dtype), remat=config.remat
    )
    if isinstance(given, Denoiser):
        return _of_denoiser(init, given, config)
    if not isinstance(given, NetworkPrior):
        raise _is_no_network(init, given)
    for name in ('noise_schedule', 'num_train_steps'):
        asked, own = getattr(config, name), getattr(given, name)
        if asked not in (None, own):
            raise ValueError(
                f'{name} is that of {init}, {own}, got {asked}; leave it out.'
            )
    card = given.card
    assert card is not None  # As every prior has that was loaded.
    before = given.network
    factor = before.out_channels // before.in_channels
    attended = config.network.get(
        'attention_downsamplings', before.attention_downsamplings
    )
    check_attention(attended, len(before.channel_mult))
    if set(before.attention_downsamplings) - set(attended):
        raise ValueError(
            f'attention_downsamplings must have those of {init}, '
            f'{", ".join(map(str, before.attention_downsamplings))}, got '
            f'{", ".join(map(str, attended)) or "none"}.'
        )
    network = before.clone(
        image_size=config.size[0],
        in_channels=config.channels,
        out_channels=factor * config.channels,
        attention_downsamplings=tuple(sorted(attended)),
    )
    _check_size(network, config)
    params = change_channels(given.params, before.in_channels, config.channels)
    words = f'parameters of {card.name}'
    added = set(attended) - set(before.attention_downsamplings)
    if added:
        params = add_attention(
            params, first_parameters(network, config.image_shape, config.seed)
        )
        words += (
            ', with new attention at downsamplings of '
            f'{", ".join(map(str, sorted(added)))}'
        )
    if before.in_channels != config.channels:
        words += (
            f', its {before.in_channels} channels averaged for '
            f'{config.channels}'
        )
    prior = NetworkPrior(
        params,
        network,
        noise_schedule=given.noise_schedule,
        num_train_steps=given.num_train_steps,
    )
    return Start(prior, words, card.as_dict())


def _is_no_network(init: str, given) -> ValueError:
    kind = type(getattr(given, 'network', given)).__name__
    return ValueError(
        f'{init} must be a network of the family of guided-diffusion, diffusers '
        f'or EDM to be trained on, but is a {kind.strip("_")}.'
    )


def _of_denoiser(init: str, given: Denoiser, config: Config) -> Start:
    """A network of another family, in its own parametrisation."""
    if type(given.network) not in families.FAMILIES.values():
        raise _is_no_network(init, given)
    if config.network:
        raise ValueError(
            f'the network is that of {init}, and attention_downsamplings can '
            'add to networks of the family of guided-diffusion alone; leave '
            'them out.'
        )
    if config.noise_schedule is not None:
        raise ValueError(
            f'the noise levels are those of {init}, {given.noise_levels}, got '
            f'the noise_schedule {config.noise_schedule}; leave it out.'
        )
    if config.num_train_steps not in (None, given.num_train_steps):
        raise ValueError(
            f'num_train_steps is that of {init}, {given.num_train_steps}, got '
            f'{config.num_train_steps}; leave it out.'
        )
    channels = given.image_shape[2]
    if config.channels != channels:
        raise ValueError(
            f'channels must be {channels}, those of {init}, got '
            f'{config.channels}; only networks of the family of guided-diffusion '
            'can be given others.'
        )
    card = given.card
    assert card is not None  # As every prior has that was loaded.
    prior = given.with_size(*config.size)
    return Start(
        dataclasses.replace(prior, card=None),
        f'parameters of {card.name}',
        card.as_dict(),
    )


def change_channels(params: dict, before: int, after: int) -> dict:
    """Parameters of a U-Net for images of another number of channels.

    Each channel takes the place of the average of the old ones: an image of
    equal channels goes into the network as it did, and has the average of what
    came out, for the noise and for the variance.

    Args:
        params: of a `UNet`.
        before, after: channels of the images.
    """
    if before == after:
        return params
    first = params['input_blocks_0_0']
    last = params['out_2']

    def averaged(leaf):
        # (..., parts x channels), the noise first, then the variance.
        parts = leaf.reshape(*leaf.shape[:-1], -1, before)
        mean = parts.mean(axis=-1, keepdims=True)
        repeated = jnp.repeat(mean, after, axis=-1)
        return repeated.reshape(*leaf.shape[:-1], -1)

    kernel = first['kernel'].mean(axis=2, keepdims=True) * (before / after)
    return {
        **params,
        'input_blocks_0_0': {
            **first,
            'kernel': jnp.repeat(kernel, after, axis=2),
        },
        'out_2': {name: averaged(leaf) for name, leaf in last.items()},
    }


def add_attention(params: dict, new: dict) -> dict:
    """Parameters of a U-Net that attends at more levels.

    The layers that it has in addition begin as the identity, so that the network
    computes what it did.

    Args:
        params: of the `UNet` before.
        new: of the one with more attention, as `first_parameters` makes them.
    """

    def is_new_attention(name):
        return 'qkv' in new.get(name, {}) and 'qkv' not in params.get(name, {})

    def before(name):
        # What goes to the next level is the last of its block: attention that
        # is added stands before it.
        block, _, place = name.rpartition('_')
        if place == '2' and is_new_attention(f'{block}_1'):
            return f'{block}_1'
        return name

    return {
        name: new[name] if is_new_attention(name) else params[before(name)]
        for name in new
    }


def num_parameters(params: dict) -> int:
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params))

"""One step of training: gradient, optimiser, averages, over all devices."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from invjax import schedule
from invjax.priors.denoiser import Denoiser
from invjax.priors.unet import NetworkPrior
from invjax.training import loss
from invjax.training.config import Config

_DATA = 'data'
# Levels of noise whose usual errors are kept, each a twentieth of the
# timesteps, and how much of them an image's error replaces.
NUM_LEVELS = 20
_LEVEL_RATE = 0.02
# Matrices of fewer rows or columns are not Muon's: an image has up to 3 channels,
# and a learned variance as many more.
_LEAST_SIDE = 8
# An error of 0 would weigh without bounds.
_LEAST_ERROR = 1e-8


@flax.struct.dataclass
class State:
    """All that a run goes on from, beside its place in the data.

    Attributes:
        step: () int32, steps that were taken.
        params: of the network, float32.
        optimizer: its state.
        averages: the averaged parameters, one a half-life.
        level_errors: (NUM_LEVELS,) the usual error of the noise at each level,
            the least first.
        is_finite: () bool; once a loss or a gradient is not, nothing moves any
            more, and this stays False.
    """

    # Raise it with each change of the fields: checkpoints have them.
    version: ClassVar[int] = 2

    step: jax.Array
    params: dict
    optimizer: Any
    averages: tuple[dict, ...]
    level_errors: jax.Array
    is_finite: jax.Array


class Metrics(NamedTuple):
    """What is worth seeing of a step; each ()."""

    loss: loss.Loss
    gradient_norm: jax.Array
    is_finite: jax.Array


def learning_rate(config: Config) -> optax.Schedule:
    """Rising in `warm_up` steps, then level or falling to 0 at the last."""
    rest = max(config.num_steps - config.warm_up, 1)
    after = {
        'none': optax.constant_schedule(config.learning_rate),
        'cosine': optax.cosine_decay_schedule(config.learning_rate, rest),
        'linear': optax.linear_schedule(config.learning_rate, 0.0, rest),
    }[config.decay]
    # The first step is not for nothing.
    rise = optax.linear_schedule(
        config.learning_rate / (config.warm_up + 1),
        config.learning_rate,
        max(config.warm_up, 1),
    )
    return optax.join_schedules([rise, after], [config.warm_up])


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Clipping, then Adam or Muon, for adamw and muon with decay of kernels.

    Muon (Jordan et al., 2024) moves a kernel, as a matrix, by the same length in
    all directions that its gradients have, with updates of the size of Adam's
    (Liu et al., 2025, arXiv 2502.16982).
    """

    def is_kernel(params):
        return jax.tree.map(lambda p: p.ndim > 1, params)

    clip = optax.clip_by_global_norm(config.clip)
    rate = learning_rate(config)
    if config.optimizer == 'muon':
        muon = optax.contrib.muon(
            rate,
            weight_decay=config.weight_decay,
            weight_decay_mask=is_kernel,
            adam_b2=config.beta2,
            muon_weight_dimension_numbers=_matrices,
            # An update is then about as large as Adam's.
            consistent_rms=0.2,
        )
        return optax.chain(clip, muon)
    decay = []
    if config.optimizer == 'adamw':
        decay = [optax.add_decayed_weights(config.weight_decay, is_kernel)]
    return optax.chain(
        clip,
        optax.scale_by_adam(b1=0.9, b2=config.beta2),
        *decay,
        optax.scale_by_learning_rate(rate),
    )


def _matrices(params):
    """Kernels as matrices from all that comes in to the features that go out.

    Vectors are none. Kernels with the few channels of an image, of the first
    layer and the last, are not taken as ones: Adam moves those, with Nesterov's
    momentum.
    """

    def numbers(leaf):
        if leaf.ndim < 2 or min(leaf.shape[-2:]) < _LEAST_SIDE:
            return None
        return optax.contrib.MuonDimensionNumbers(
            tuple(range(leaf.ndim - 1)), leaf.ndim - 1
        )

    return jax.tree.map(numbers, params)


def first_state(config: Config, params: dict) -> State:
    """The state before the first step."""
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimizer=make_optimizer(config).init(params),
        averages=tuple(jax.tree.map(jnp.copy, params) for _ in range(2)),
        # That of saying nothing, as a new network does. That of a trained one is
        # found within some hundred steps.
        level_errors=jnp.ones(NUM_LEVELS),
        is_finite=jnp.ones((), bool),
    )


def make_mesh(config: Config, devices=None) -> Mesh:
    """All devices of all processes in a row.

    Of a CPU that is divided into devices, as many as share a batch evenly.

    Raises:
        ValueError: if they cannot share a batch evenly.
    """
    part = config.batch // config.accumulate
    if devices is None:
        devices = jax.devices()
        if jax.process_count() == 1 and devices[0].platform == 'cpu':
            while part % len(devices):
                devices = devices[:-1]
    devices = np.array(devices)
    if part % len(devices):
        raise ValueError(
            f'{part} images, a batch of {config.batch} in '
            f'{config.accumulate} parts, cannot be shared by {len(devices)} '
            'devices; their number must divide it.'
        )
    return Mesh(devices, (_DATA,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on each device."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """The first axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(_DATA))


def draw_timesteps(key: jax.Array, number: int, num_train_steps: int):
    """Timesteps of a batch, (number,) int32, each equally likely at each place.

    The i-th is drawn from the i-th of `number` equal parts, so that every batch
    has all levels of noise, and the loss of less chance (Kingma et al., 2021,
    appendix I.1); a common shift around the circle makes every place alike.
    """
    key_part, key_shift = jax.random.split(key)
    within = jax.random.uniform(key_part, (number,))
    place = (jnp.arange(number) + within) / number
    place = (place + jax.random.uniform(key_shift)) % 1.0
    t = jnp.floor(num_train_steps * place).astype(jnp.int32)
    # Rounding may reach the end itself.
    return jnp.minimum(t, num_train_steps - 1)


class Parts(NamedTuple):
    """What is seen of a batch's loss beside its mean.

    Attributes:
        means: of the parts of the images' losses.
        level_sums: (NUM_LEVELS,) sums of the errors of the noise by level.
        level_counts: (NUM_LEVELS,) of how many images.
    """

    means: loss.Loss
    level_sums: jax.Array
    level_counts: jax.Array


def batch_loss(
    params: dict,
    prior: NetworkPrior | Denoiser,
    steps: schedule.Steps,
    terms: loss.Terms,
    x_0: jax.Array,
    t: jax.Array,
    noise: jax.Array,
    level_errors: jax.Array,
) -> tuple[jax.Array, Parts]:
    """The mean loss of some images, and what it is made of.

    `level_errors` count with the weighting `balanced` alone.
    """
    predict = dataclasses.replace(prior, params=params)
    levels = t * NUM_LEVELS // prior.num_train_steps
    if terms.weighting == 'balanced':
        weights = 1 / jnp.maximum(level_errors[levels], _LEAST_ERROR)
    elif isinstance(prior, Denoiser):
        of_all = prior.parametrisation.loss_weights(prior.alpha_bar)
        weights = jnp.asarray(of_all, jnp.float32)[t]
    else:
        weights = jnp.ones(len(t))
    each = jax.vmap(
        lambda x_0, t, noise, weight: loss.image_loss(
            predict, x_0, t, noise, steps, terms, weight
        )
    )(x_0, t, noise, weights)
    means = jax.tree.map(jnp.mean, each)
    is_at = jax.nn.one_hot(levels, NUM_LEVELS)
    parts = Parts(means, each.error @ is_at, is_at.sum(axis=0))
    return means.total, parts


def update_levels(level_errors: jax.Array, parts: Parts) -> jax.Array:
    """The usual errors after a batch: each image's replaces a little of it."""
    kept = (1 - _LEVEL_RATE) ** parts.level_counts
    mean = parts.level_sums / jnp.maximum(parts.level_counts, 1)
    return kept * level_errors + (1 - kept) * mean


def terms_of(config: Config) -> loss.Terms:
    """The terms of a run's loss."""
    names = (field.name for field in dataclasses.fields(loss.Terms))
    return loss.Terms(**{name: getattr(config, name) for name in names})


def make_step(
    config: Config, prior: NetworkPrior | Denoiser, mesh: Mesh
) -> Callable[[State, jax.Array], tuple[State, Metrics]]:
    """The function of one step; to be compiled by `jax.jit`.

    Timesteps and noise are a function of the seed, the step, and an image's
    place in the batch: neither parts nor devices change them.

    Args:
        config: of the run.
        prior: with the network; its parameters do not matter.
        mesh: the devices.

    Returns:
        (state, (B, H, W, C) images) to the next state and what is seen of it.
    """
    optimizer = make_optimizer(config)
    terms = terms_of(config)
    steps = schedule.reverse_steps(prior.alpha_bar)
    prior = dataclasses.replace(prior, params={})
    root = jax.random.fold_in(jax.random.key(config.seed), 1)
    parts = config.accumulate

    # Each device computes its own images: the compiler cannot divide the loops of
    # filtered convolutions, and would gather all images on each. `check_vma` is
    # for what says over which axes it varies, which convolutions do not.
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(), PartitionSpec(_DATA)),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    def accumulated(params, level_errors, batch):
        def gradient(batch):
            (_, seen), gradient = jax.value_and_grad(batch_loss, has_aux=True)(
                params, prior, steps, terms, *batch, level_errors
            )
            return seen, gradient

        def add(total, part):
            return jax.tree.map(jnp.add, total, gradient(part)), None

        if parts == 1:
            seen, gradients = gradient(batch)
        else:
            cut = jax.tree.map(
                lambda values: values.reshape(parts, -1, *values.shape[1:]),
                batch,
            )
            shapes = jax.eval_shape(gradient, jax.tree.map(lambda v: v[0], cut))
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
            (seen, gradients), _ = lax.scan(add, zeros, cut)
        seen, gradients = lax.psum((seen, gradients), _DATA)
        means, gradients = jax.tree.map(
            lambda value: value / (parts * mesh.size), (seen.means, gradients)
        )
        return seen._replace(means=means), gradients

    def step(state: State, x_0: jax.Array) -> tuple[State, Metrics]:
        key = jax.random.fold_in(root, state.step)
        key_t, key_noise = jax.random.split(key)
        t = draw_timesteps(key_t, len(x_0), prior.num_train_steps)
        noise = jax.random.normal(key_noise, x_0.shape)

        seen, gradients = accumulated(
            state.params, state.level_errors, (x_0, t, noise)
        )
        means = seen.means
        norm = optax.tree.norm(gradients)
        is_finite = (
            state.is_finite & jnp.isfinite(means.total) & jnp.isfinite(norm)
        )
        updates, optimizer_state = optimizer.update(
            gradients, state.optimizer, state.params
        )
        params = optax.apply_updates(state.params, updates)
        moved = State(
            step=state.step + 1,
            params=params,
            optimizer=optimizer_state,
            averages=average(config, state, params),
            level_errors=update_levels(state.level_errors, seen),
            is_finite=is_finite,
        )
        kept = dataclasses.replace(state, is_finite=is_finite)
        new = jax.tree.map(
            lambda one, other: jnp.where(is_finite, one, other), moved, kept
        )
        return new, Metrics(means, norm, is_finite)

    return step


def average(config: Config, state: State, params: dict) -> tuple[dict, ...]:
    """The averages after a step: each forgets half within its half-life.

    Early on a half-life is at most a twentieth of the images that were seen, so
    that the first parameters are forgotten (Karras et al., 2022, their code).
    """
    seen = (state.step + 1) * config.batch

    def averaged(half_life, before):
        decay = 0.5 ** (config.batch / jnp.minimum(half_life, seen / 20))
        return jax.tree.map(
            lambda old, new: decay * old + (1 - decay) * new, before, params
        )

    return tuple(
        averaged(half_life, before)
        for half_life, before in zip(
            config.half_lives, state.averages, strict=True
        )
    )


class Compiled(NamedTuple):
    """A step that is ready to run.

    Attributes:
        run: (state, images) to (state, Metrics); the old state is given up.
        words: a sentence on the memory that it will take.
    """

    run: Callable[[State, jax.Array], tuple[State, Metrics]]
    words: str


def compile_step(
    config: Config, prior: NetworkPrior | Denoiser, mesh: Mesh
) -> Compiled:
    """Compile a step, and see what memory it needs, before any is run."""
    state = jax.eval_shape(lambda: first_state(config, prior.params))
    images = jax.ShapeDtypeStruct(
        (config.batch, *config.image_shape), jnp.float32
    )
    jitted = jax.jit(
        make_step(config, prior, mesh),
        in_shardings=(replicated(mesh), sharded(mesh)),
        out_shardings=replicated(mesh),
        donate_argnums=0,
    )
    run = jitted.lower(state, images).compile()
    return Compiled(run, _memory_words(run, state, mesh.devices))


def _memory_words(run, state, devices) -> str:
    kept = sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)
    )
    each = f'each of {len(devices)} devices'
    if len(devices) == 1:
        each = 'the device'
    elif devices[0].platform == 'cpu':
        # They are parts of one machine, whose memory is what runs out.
        each, kept = f'the {len(devices)} devices together', kept * len(devices)
    of_state = f'{kept / 2**30:.2f} GiB for parameters, averages and optimiser'
    try:
        needed = run.memory_analysis().temp_size_in_bytes
    except (AttributeError, NotImplementedError, RuntimeError):
        # Not every backend says.
        return f'on {each} {of_state}, and what a step takes'
    if devices[0].platform == 'cpu':
        needed *= len(devices)
    return (
        f'{(kept + needed) / 2**30:.2f} GiB on {each} at the peak, {of_state} '
        f'and {needed / 2**30:.2f} GiB for a step'
    )

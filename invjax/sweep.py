"""Images x samples x settings as one flat axis of lanes: the only module that
knows a batch.

A lane is one run of the sampler: one problem, one key, one value of each
hyperparameter. Lanes never talk to each other. They are run in batches of one
size, and each batch in stretches of one number of steps, so that one compiled
program serves a sweep of any size, and the next sweep too.

What compiles anew: image shape, lanes of a batch, steps of a stretch, the
method and its choices of a name, the operator's static shape, the network. A
new image, mask, hyperparameter, number of steps, key or checkpoint does not.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from invjax import sampler, schedule
from invjax.conditioners import (
    Info,
    check_operator,
    check_settings,
    make_conditioner,
    split_settings,
)
from invjax.problem import Problem
from invjax.schedule import Steps


class Lanes(NamedTuple):
    """What is run, one row a lane.

    Attributes:
        keys: (L,) random keys.
        problems: Problem with a leading axis on every leaf: each one once,
            however many lanes share it.
        rows: (L,) which of them is a lane's.
        numbers: hyperparameter name to (L,) float32.
    """

    keys: jax.Array
    problems: Problem
    rows: np.ndarray
    numbers: dict[str, np.ndarray]

    def take(self, index: np.ndarray) -> 'Lanes':
        """Some of the lanes, in that order."""
        numbers = {name: values[index] for name, values in self.numbers.items()}
        return self._replace(
            keys=self.keys[index], rows=self.rows[index], numbers=numbers
        )


class _Batch(NamedTuple):
    """Lanes that are run at once; the problems have been handed out."""

    keys: jax.Array
    problems: Problem
    numbers: dict[str, np.ndarray]


class Result(NamedTuple):
    """What came out of a batch, in order.

    Attributes:
        lanes: (B,) indices into the lanes that were asked for.
        x: (B, H, W, C) float32, not clipped.
        info: Info of (B, N) arrays: a value a step. Steps that were left out
            because no lane needed them are NaN.
    """

    lanes: np.ndarray
    x: np.ndarray
    info: Info


def stack(trees: Sequence[Any]) -> Any:
    """Stack pytrees of equal structure along a new first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def grid(**values: Sequence[float]) -> list[dict[str, float]]:
    """All combinations of some values of each hyperparameter, last fastest."""
    return [
        dict(zip(values, combination, strict=True))
        for combination in itertools.product(*values.values())
    ]


def image_sample_key(key: jax.Array, image: int, sample: int) -> jax.Array:
    """The key of an image's sample: the same for all settings and methods."""
    return jax.random.fold_in(jax.random.fold_in(key, image), sample)


def make_lanes(
    key: jax.Array,
    problems: Sequence[Problem],
    settings: Sequence[dict[str, float]] = ({},),
    num_samples: int = 1,
    first_image: int = 0,
) -> Lanes:
    """Lanes for every image, sample and setting; settings vary fastest.

    Args:
        key: of the whole experiment.
        problems: one an image.
        settings: hyperparameters by name, the same names in each.
        num_samples: samples of each image and setting.
        first_image: the number of the first image, so that a part of a data
            set draws the noise that it has in the whole.

    Returns:
        `len(problems) * num_samples * len(settings)` lanes.

    Raises:
        ValueError: if the settings do not have the same names.
    """
    if any(setting.keys() != settings[0].keys() for setting in settings):
        raise ValueError('all settings of a sweep must have the same names.')
    images, samples, rows = np.meshgrid(
        np.arange(len(problems)),
        np.arange(num_samples),
        np.arange(len(settings)),
        indexing='ij',
    )
    keys = jax.vmap(image_sample_key, (None, 0, 0))(
        key, first_image + images.ravel(), samples.ravel()
    )
    numbers = {
        name: np.array([s[name] for s in settings], np.float32)[rows.ravel()]
        for name in settings[0]
    }
    return Lanes(keys, stack(problems), images.ravel(), numbers)


def join_lanes(parts: Sequence[Lanes]) -> Lanes:
    """Lanes of several calls of `make_lanes` in one: of other noise, say.

    Their problems must be of one operator and one shape, and their settings
    must have the same names.
    """
    sizes = [len(part.problems.noise_std) for part in parts]
    offsets = np.cumsum([0, *sizes[:-1]])
    return Lanes(
        keys=jnp.concatenate([part.keys for part in parts]),
        problems=jax.tree.map(
            lambda *leaves: jnp.concatenate(leaves),
            *(part.problems for part in parts),
        ),
        rows=np.concatenate(
            [part.rows + n for part, n in zip(parts, offsets, strict=True)]
        ),
        numbers=jax.tree.map(
            lambda *values: np.concatenate(values),
            *(part.numbers for part in parts),
        ),
    )


def _over_lanes(one, mesh, of_a_lane: tuple, shared: tuple):
    """Map over lanes, each device its own ones: no device waits for another."""

    def block(of_a_lane, shared):
        return jax.vmap(lambda *args: one(*args, *shared))(*of_a_lane)

    if mesh is not None:
        block = jax.shard_map(
            block,
            mesh=mesh,
            in_specs=(PartitionSpec('lanes'), PartitionSpec()),
            out_specs=PartitionSpec('lanes'),
            check_vma=False,
        )
    return block(of_a_lane, shared)


@functools.partial(jax.jit, static_argnames=('method', 'choices', 'mesh'))
def _start(batch: _Batch, steps: Steps, method: str, choices: tuple, mesh):
    def one(lane, steps):
        conditioner = make_conditioner(method, **dict(choices), **lane.numbers)
        return sampler.start(lane.keys, steps, lane.problems, conditioner)

    return _over_lanes(one, mesh, (batch,), (steps,))


@functools.partial(jax.jit, static_argnames=('method', 'choices', 'mesh'))
def _finish(batch: _Batch, carry, method: str, choices: tuple, mesh):
    def one(lane, carry):
        conditioner = make_conditioner(method, **dict(choices), **lane.numbers)
        return sampler.finish(lane.keys, carry, lane.problems, conditioner)

    return _over_lanes(one, mesh, (batch, carry), ())


@functools.partial(
    jax.jit,
    static_argnames=('method', 'choices', 'mesh'),
    donate_argnames='carry',
)
def _run(batch: _Batch, carry, steps: Steps, prior, method: str, choices, mesh):
    def one(lane, carry, steps, prior):
        conditioner = make_conditioner(method, **dict(choices), **lane.numbers)
        return sampler.run(
            lane.keys, carry, steps, lane.problems, prior, conditioner
        )

    return _over_lanes(one, mesh, (batch, carry), (steps, prior))


def run_batches(
    lanes: Lanes,
    prior,
    method: str,
    num_steps: int | str = 100,
    *,
    max_lanes: int = 8,
    stretch: int = 10,
    devices: Sequence[jax.Device] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    **settings: float | str | bool,
) -> Iterator[Result]:
    """Run lanes batch by batch; each batch is handed over as it finishes.

    Args:
        lanes: see `make_lanes`.
        prior: with `alpha_bar`, (T,) float64, as its schedule.
        method: a name of CONDITIONERS.
        num_steps: any form that `schedule.respace` takes.
        max_lanes: the most lanes at once; memory grows with it, not with the
            number of lanes. The last batch is filled up by repetition, so that
            it runs the same program.
        stretch: steps between two looks from the host.
        devices: that share each batch, as evenly as they can; all of this
            process by default.
        on_progress: called with (lane steps done, lane steps in all).
        **settings: of the method and its transition, the same for all lanes.

    Yields:
        A Result a batch.

    Raises:
        ValueError: before any work, for an unknown method, a name that it does
            not have or that the lanes have already, a value out of its range,
            or a number of steps that there is not.
    """
    twice = lanes.numbers.keys() & settings.keys()
    if twice:
        raise ValueError(
            f'{min(twice)} must be given once, for all lanes or for each.'
        )
    lanes, steps, choices = _checked(lanes, prior, method, num_steps, settings)
    devices = jax.local_devices() if devices is None else devices
    batch_size = min(max_lanes, len(lanes.keys))
    devices = devices[:batch_size]
    batch_size -= batch_size % len(devices)
    return _batches(
        lanes,
        prior,
        method,
        steps,
        batch_size,
        stretch,
        devices,
        on_progress,
        choices,
    )


def _checked(lanes, prior, method, num_steps, settings):
    """Lanes with all numbers, the steps, and the choices of a name."""
    numbers, choices = split_settings(method, settings)
    varied, sizes = split_settings(method, lanes.numbers)
    if sizes:
        raise ValueError(
            f'{min(sizes)} sets a shape, so it must be the same for all lanes.'
        )
    numbers |= varied
    check_settings(method, numbers, len(prior.alpha_bar))
    make_conditioner(method, **choices)
    check_operator(method, lanes.problems.operator, choices)
    steps = schedule.reverse_steps(np.asarray(prior.alpha_bar), num_steps)
    numbers = {
        name: np.broadcast_to(np.asarray(values, np.float32), len(lanes.keys))
        for name, values in numbers.items()
    }
    choices = tuple(sorted(choices.items()))
    return lanes._replace(numbers=numbers), steps, choices


def _hand_out(lanes: Lanes, index: np.ndarray) -> _Batch:
    taken = lanes.take(index)
    problems = jax.tree.map(lambda leaf: leaf[taken.rows], lanes.problems)
    return _Batch(taken.keys, problems, taken.numbers)


def _batches(
    lanes,
    prior,
    method,
    steps,
    batch_size,
    stretch,
    devices,
    on_progress,
    choices,
):
    num_lanes = len(lanes.keys)
    num_steps = len(steps.t)
    mesh = None
    if len(devices) > 1:
        mesh = Mesh(np.array(devices), ('lanes',))
        # Once, and not with each stretch.
        prior = jax.device_put(prior, NamedSharding(mesh, PartitionSpec()))
    for begin in range(0, num_lanes, batch_size):
        index = np.arange(begin, begin + batch_size)
        batch = _hand_out(lanes, np.minimum(index, num_lanes - 1))
        cuts, num_skipped = schedule.stretches(
            steps, stretch, _first_t(batch, method, dict(choices))
        )
        carry = _start(batch, steps, method, choices, mesh)
        infos = []
        kept = min(batch_size, num_lanes - begin)
        for i, cut in enumerate(cuts):
            carry, info = _run(batch, carry, cut, prior, method, choices, mesh)
            infos.append(jax.device_get(info))
            done = min(num_skipped + (i + 1) * stretch, num_steps)
            on_progress(begin * num_steps + kept * done, num_lanes * num_steps)
        yield Result(
            lanes=index[:kept],
            x=np.asarray(_finish(batch, carry, method, choices, mesh))[:kept],
            info=_join(infos, num_steps, num_skipped, kept),
        )


def batch_bytes(
    lanes: Lanes,
    prior,
    method: str,
    num_steps: int | str = 100,
    *,
    max_lanes: int = 8,
    stretch: int = 10,
    **settings: float | str | bool,
) -> int:
    """The memory of a batch on one device, by the compiler's own account.

    Compiles, but does not run. What the compiler does not see, above all the
    host's own arrays, comes on top.

    Args:
        max_lanes: lanes of the batch.
        **settings: see `run_batches`, as for the other arguments.
    """
    lanes, steps, choices = _checked(lanes, prior, method, num_steps, settings)
    batch = _hand_out(lanes, np.arange(max_lanes) % len(lanes.keys))
    cuts, _ = schedule.stretches(steps, stretch, None)
    carry = jax.eval_shape(
        lambda batch: _start(batch, steps, method, choices, None), batch
    )
    lowered = _run.lower(
        batch, carry, next(iter(cuts)), prior, method, choices, None
    )
    memory = lowered.compile().memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


def lanes_within(memory: float, lanes: Lanes, prior, method, *args, **kwargs):
    """The most lanes whose batch takes no more than `memory` bytes.

    Takes the arguments of `batch_bytes`. Memory is affine in the lanes: two
    small programs tell the rest.

    Raises:
        ValueError: if one lane alone takes more.
    """
    one, two = (
        batch_bytes(lanes, prior, method, *args, max_lanes=n, **kwargs)
        for n in (1, 2)
    )
    if one > memory:
        raise ValueError(
            f'the memory must be at least {one / 2**30:.2f} GiB, which one lane '
            f'takes, got {memory / 2**30:.2f}.'
        )
    return 1 + int((memory - one) // max(two - one, 1))


def _first_t(lanes: _Batch, method: str, choices: dict) -> float | None:
    """The largest timestep that any of the lanes needs; None for all."""
    rows = zip(*(np.asarray(v) for v in lanes.numbers.values()), strict=True)
    settings = [dict(zip(lanes.numbers, row, strict=True)) for row in rows]
    first = [
        make_conditioner(method, **choices, **setting).first_t
        for setting in settings or [{}]
    ]
    return None if None in first else float(max(first))


def _join(infos, num_steps: int, num_skipped: int, kept: int) -> Info:
    """Put the Info of the stretches together, with NaN for steps left out."""

    def join(*parts):
        values = np.concatenate(parts, axis=1)[:kept, : num_steps - num_skipped]
        return np.pad(
            values, ((0, 0), (num_skipped, 0)), constant_values=np.nan
        )

    return jax.tree.map(join, *infos)


def run_lanes(lanes: Lanes, prior, method: str, *args, **kwargs) -> Result:
    """`run_batches`, put together: for what fits in the host's memory."""
    results = list(run_batches(lanes, prior, method, *args, **kwargs))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def restore(
    problem: Problem,
    prior,
    method: str = 'dps',
    num_steps: int | str = 100,
    *,
    key: jax.Array,
    num_samples: int = 1,
    max_lanes: int = 8,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    **settings,
) -> Result:
    """Restore one image from its measurement.

    Args:
        problem: see `invjax.problem`.
        prior: see `invjax.priors`.
        method: a name of CONDITIONERS.
        num_steps: any form that `schedule.respace` takes.
        key: random key.
        num_samples: how many restorations to draw.
        max_lanes: how many of them at once.
        on_progress: see `run_batches`.
        **settings: the method's hyperparameters and choices; those left out
            have the method's own defaults.

    Returns:
        Result with (num_samples, H, W, C) images.

    Raises:
        ValueError: see `run_batches`.
    """
    numbers, choices = split_settings(method, settings)
    lanes = make_lanes(key, [problem], [numbers], num_samples)
    return run_lanes(
        lanes,
        prior,
        method,
        num_steps,
        max_lanes=max_lanes,
        on_progress=on_progress,
        **choices,
    )


def first_nonfinite_step(info: Info) -> np.ndarray:
    """(B,) index of each lane's first step that was not finite; -1 for none.

    Steps that were left out are NaN in all fields and do not count; a step
    that was taken has a finite share of clipped values whatever happened.
    """
    taken = np.isfinite(info.clipped)
    bad = taken & ~np.isfinite(info.residual + info.guidance + info.prior_step)
    return np.where(bad.any(axis=1), bad.argmax(axis=1), -1)

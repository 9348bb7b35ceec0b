"""Many restorations at once: the only module that knows a batch.

A lane is one run of the sampler: one problem, one key, one method. Lanes never
talk to each other. They are run in batches of one size, and each batch in
stretches of one number of steps, so that one compiled program serves a sweep of
any size, and the next sweep too.

What compiles anew: image shape, lanes of a batch, steps of a stretch, the
method's class and its choices, the operator's static shape, the network. A new
image, mask, hyperparameter, number of steps, key or checkpoint does not.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from invjax import compiled, keys, sampler, schedule
from invjax.methods.base import Method
from invjax.problem import Problem
from invjax.schedule import Steps
from invjax.types import Info


class Lanes(NamedTuple):
    """What is run, one row a lane.

    Attributes:
        keys: (L,) random keys.
        problems: Problem with a leading axis on every leaf: each one once,
            however many lanes share it.
        rows: (L,) which of them is a lane's.
        methods: Method with (L,) float32 leaves: its numbers, lane by lane.
    """

    keys: jax.Array
    problems: Problem
    rows: np.ndarray
    methods: Method

    def take(self, index: np.ndarray) -> 'Lanes':
        """Some of the lanes, in that order."""
        data = np.asarray(jax.random.key_data(self.keys))[index]
        return self._replace(
            keys=jax.random.wrap_key_data(
                data, impl=jax.random.key_impl(self.keys)
            ),
            rows=self.rows[index],
            methods=jax.tree.map(lambda leaf: leaf[index], self.methods),
        )


class _Batch(NamedTuple):
    """Lanes that are run at once; the problems have been handed out."""

    keys: jax.Array
    problems: Problem
    methods: Method


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
    """Stack pytrees of equal structure along a new first axis, on the host."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def stack_methods(methods: Sequence[Method]) -> Method:
    """Methods that differ in numbers alone, as one with (L,) float32 leaves.

    Raises:
        ValueError: if they differ in their class or in a choice.
    """
    # JAX has no class for it that a type checker knows.
    first: Any = jax.tree.structure(methods[0])
    for method in methods:
        if first != jax.tree.structure(method):
            raise ValueError(
                'methods that share a program must differ in numbers alone, '
                f'got {methods[0]} and {method}.'
            )
    return jax.tree.map(lambda *values: np.array(values, np.float32), *methods)


def make_lanes(
    root: jax.Array,
    problems: Sequence[Problem],
    methods: Sequence[Method],
    num_samples: int = 1,
    first_image: int = 0,
) -> Lanes:
    """Lanes for every image, sample and method; methods vary fastest.

    Args:
        root: key of the whole experiment (`invjax.keys`).
        problems: one an image.
        methods: which differ in numbers alone.
        num_samples: of each image and method.
        first_image: the number of the first image, so that a part of a data
            set draws the noise that it has in the whole.

    Returns:
        `len(problems) * num_samples * len(methods)` lanes.

    Raises:
        ValueError: see `stack_methods`.
    """
    stacked = stack_methods(methods)
    images, samples, rows = (
        index.ravel()
        for index in np.meshgrid(
            np.arange(len(problems)),
            np.arange(num_samples),
            np.arange(len(methods)),
            indexing='ij',
        )
    )
    of_lanes = jax.vmap(keys.of_sample, in_axes=(None, 0, 0))(
        root, first_image + images, samples
    )
    return Lanes(
        of_lanes,
        stack([problem.bare() for problem in problems]),
        images,
        jax.tree.map(lambda leaf: leaf[rows], stacked),
    )


def join_lanes(parts: Sequence[Lanes]) -> Lanes:
    """Lanes of several calls of `make_lanes` in one: of other noise, say.

    Their problems must be of one operator and one shape, and their methods must
    differ in numbers alone.
    """
    sizes = [len(part.problems.noise_std) for part in parts]
    offsets = np.cumsum([0, *sizes[:-1]])
    return Lanes(
        keys=jnp.concatenate([part.keys for part in parts]),
        problems=jax.tree.map(
            lambda *leaves: np.concatenate(leaves),
            *(part.problems for part in parts),
        ),
        rows=np.concatenate(
            [part.rows + n for part, n in zip(parts, offsets, strict=True)]
        ),
        methods=jax.tree.map(
            lambda *values: np.concatenate(values),
            *(part.methods for part in parts),
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


@partial(jax.jit, static_argnames='mesh')
def _start(batch: _Batch, steps: Steps, mesh):
    def one(lane, steps):
        return sampler.start(lane.keys, steps, lane.problems, lane.methods)

    return _over_lanes(one, mesh, (batch,), (steps,))


@partial(jax.jit, static_argnames='mesh')
def _finish(batch: _Batch, carry, mesh):
    def one(lane, carry):
        return sampler.finish(lane.keys, carry, lane.problems, lane.methods)

    return _over_lanes(one, mesh, (batch, carry), ())


@partial(jax.jit, static_argnames='mesh', donate_argnames='carry')
def _run(batch: _Batch, carry, steps: Steps, prior, mesh):
    def one(lane, carry, steps, prior):
        return sampler.run(
            lane.keys, carry, steps, lane.problems, prior, lane.methods
        )

    return _over_lanes(one, mesh, (batch, carry), (steps, prior))


def run_batches(
    lanes: Lanes,
    prior,
    num_steps: int | str = 100,
    *,
    max_lanes: int = 8,
    stretch: int = 10,
    devices: Sequence[jax.Device] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Result]:
    """Run lanes batch by batch; each batch is handed over as it finishes.

    Args:
        lanes: see `make_lanes`.
        prior: see `invjax.types.Prior`; its `alpha_bar` is the schedule.
        num_steps: any form that `schedule.respace` takes.
        max_lanes: the most lanes at once; memory grows with it, not with the
            number of lanes. The last batch is filled up by repetition, so that
            it runs the same program.
        stretch: steps between two looks from the host.
        devices: that share each batch, as evenly as they can; all of this
            process by default.
        on_progress: called with (lane steps done, lane steps in all).

    Yields:
        A Result a batch.

    Raises:
        ValueError: before any work, for an operator that the method cannot do,
            a value out of its range, or a number of steps that there is not.
    """
    steps = _checked_steps(lanes, prior, num_steps)
    devices = jax.local_devices() if devices is None else devices
    batch_size = min(max_lanes, len(lanes.keys))
    devices = devices[:batch_size]
    batch_size -= batch_size % len(devices)
    return _batches(
        lanes, _bare(prior), steps, batch_size, stretch, devices, on_progress
    )


def _checked_steps(lanes: Lanes, prior, num_steps) -> Steps:
    alpha_bar = np.asarray(prior.alpha_bar)
    lanes.methods.check(len(alpha_bar))
    # Of one problem: what is stacked has other shapes than it declares.
    one = jax.tree.map(lambda leaf: leaf[0], lanes.problems)
    lanes.methods.check_operator(one.operator)
    return schedule.reverse_steps(alpha_bar, num_steps)


def _bare(prior):
    """A prior without its card, which would compile anew for each one."""
    return prior.bare() if hasattr(prior, 'bare') else prior


def _hand_out(lanes: Lanes, index: np.ndarray) -> _Batch:
    """Those lanes on the device, each with its own problem.

    What is on the host is picked there, since each shape of an array that JAX
    picks from is one more program.
    """
    taken = lanes.take(index)
    problems = jax.tree.map(lambda leaf: leaf[taken.rows], lanes.problems)
    return jax.device_put(_Batch(taken.keys, problems, taken.methods))


def _batches(lanes, prior, steps, batch_size, stretch, devices, on_progress):
    num_lanes = len(lanes.keys)
    num_steps = len(steps.t)
    mesh = None
    if len(devices) > 1:
        mesh = Mesh(np.array(devices), ('lanes',))
        # Once, and not with each stretch.
        prior = jax.device_put(prior, NamedSharding(mesh, PartitionSpec()))
    on_progress(0, num_lanes * num_steps)
    for begin in range(0, num_lanes, batch_size):
        index = np.arange(begin, begin + batch_size)
        batch = _hand_out(lanes, np.minimum(index, num_lanes - 1))
        cuts, num_skipped = schedule.stretches(
            steps, stretch, _first_t(batch.methods, steps)
        )
        start = compiled.find(_start, batch, steps, mesh=mesh)
        carry = start(batch, steps)
        run = compiled.find(_run, batch, carry, cuts[0], prior, mesh=mesh)
        infos = []
        kept = min(batch_size, num_lanes - begin)
        for i, cut in enumerate(cuts):
            carry, info = run(batch, carry, cut, prior)
            infos.append(jax.device_get(info))
            done = min(num_skipped + (i + 1) * stretch, num_steps)
            on_progress(begin * num_steps + kept * done, num_lanes * num_steps)
        finish = compiled.find(_finish, batch, carry, mesh=mesh)
        yield Result(
            lanes=index[:kept],
            x=np.asarray(finish(batch, carry))[:kept],
            info=_join(infos, num_steps, num_skipped, kept),
        )


def _first_t(methods: Method, steps: Steps) -> float | None:
    """The largest timestep that any lane of stacked methods needs."""
    first = methods.first_t(steps)
    return None if first is None else float(np.max(first))


def batch_bytes(
    lanes: Lanes,
    prior,
    num_steps: int | str = 100,
    *,
    max_lanes: int = 8,
    stretch: int = 10,
) -> int:
    """The memory of a batch on one device, by the compiler's own account.

    Compiles, but does not run. What the compiler does not see, above all the
    host's own arrays, comes on top.

    Args:
        max_lanes: lanes of the batch. The others are those of `run_batches`.
    """
    steps = _checked_steps(lanes, prior, num_steps)
    batch = _hand_out(lanes, np.arange(max_lanes) % len(lanes.keys))
    cuts, _ = schedule.stretches(steps, stretch, None)
    carry = jax.eval_shape(lambda batch: _start(batch, steps, None), batch)
    lowered = _run.lower(batch, carry, next(iter(cuts)), _bare(prior), None)
    memory = lowered.compile().memory_analysis()
    if memory is None:
        raise ValueError(
            'memory_gib cannot be kept here, since the compiler of '
            f'{jax.default_backend()} does not say what a program takes; give '
            'max_lanes in its place.'
        )
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


class Fitting(NamedTuple):
    """What a memory has room for.

    Attributes:
        lanes: of a batch.
        devices: that share them.
    """

    lanes: int
    devices: int


def lanes_within(
    memory: float, lanes: Lanes, prior, *args, sharing: int = 1, **kwargs
) -> Fitting:
    """The most lanes whose batch takes no more than `memory` bytes.

    Takes the arguments of `batch_bytes`. Memory is affine in the lanes: two
    small programs tell the rest.

    Args:
        sharing: devices that have this memory together, as those of a CPU do,
            and each its own copy of what does not grow with the lanes. Fewer of
            them are used where there would not be a lane for each.

    Raises:
        ValueError: if one lane alone takes more.
    """
    one, two = (
        batch_bytes(lanes, prior, *args, max_lanes=n, **kwargs) for n in (1, 2)
    )
    if one > memory:
        raise ValueError(
            f'the memory must be at least {one / 2**30:.2f} GiB, which one lane '
            f'takes, got {memory / 2**30:.2f}.'
        )
    of_lane = max(two - one, 1)
    of_device = max(one - of_lane, 0)
    for devices in range(sharing, 0, -1):
        fitting = int((memory - devices * of_device) // of_lane)
        if fitting >= devices:
            break
    return Fitting(max(fitting, 1), devices)


def _join(infos, num_steps: int, num_skipped: int, kept: int) -> Info:
    """Put the Info of the stretches together, with NaN for steps left out."""

    def join(*parts):
        values = np.concatenate(parts, axis=1)[:kept, : num_steps - num_skipped]
        return np.pad(
            values, ((0, 0), (num_skipped, 0)), constant_values=np.nan
        )

    return jax.tree.map(join, *infos)


def run_lanes(lanes: Lanes, prior, *args, **kwargs) -> Result:
    """`run_batches`, put together: for what fits in the host's memory."""
    results = list(run_batches(lanes, prior, *args, **kwargs))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


# Of the steps, before most starts are given up; and one in how many goes on.
_EARLY = 1 / 3
_ONE_OF = 4


def run_starts(
    lanes: Lanes,
    prior,
    num_steps: int | str,
    num_starts: int,
    *,
    max_lanes: int = 8,
    stretch: int = 10,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Result:
    """Run many starts for a third of the steps, and those of least residual on.

    Of each group of `num_starts` lanes the residuals of the estimates after a
    third of the steps are compared, and the fourth part with the least ones,
    rounded up, is run to the end. A lane ends as it does by `run_batches`,
    since a step's noise depends on its key and timestep alone. On one device.

    Args:
        lanes: groups of `num_starts` successive ones.
        prior, num_steps, max_lanes, stretch, on_progress: see `run_batches`.
        num_starts: of a group.

    Returns:
        A Result of the lanes that were run to the end, in order.

    Raises:
        ValueError: see `run_batches`.
    """
    steps = _checked_steps(lanes, prior, num_steps)
    prior = _bare(prior)
    first_t = _first_t(lanes.methods, steps)
    _, skipped = schedule.stretches(steps, stretch, first_t)
    rows = Steps(*(np.asarray(field)[skipped:] for field in steps))
    num_rows = len(rows.t)
    cut = max(1, round(_EARLY * num_rows))
    num_kept = -(-num_starts // _ONE_OF)
    num_lanes = len(lanes.keys)
    total = num_lanes * cut
    total += num_lanes // num_starts * num_kept * (num_rows - cut)

    def advance(index, carry, part, done):
        """Carries and Infos of some lanes after a part of the steps."""
        cuts, _ = schedule.stretches(
            Steps(*(field[part] for field in rows)), stretch
        )
        length = len(rows.t[part])
        carries, infos = [], []
        for begin in range(0, len(index), max_lanes):
            # The last batch is filled up, so that it runs the same program.
            places = begin + np.arange(min(max_lanes, num_lanes))
            places = np.minimum(places, len(index) - 1)
            batch = _hand_out(lanes, index[places])
            if carry is None:
                moved = _start(batch, steps, None)
            else:
                moved = jax.tree.map(lambda leaf, at=places: leaf[at], carry)
            of_batch = []
            for one in cuts:
                moved, info = _run(batch, moved, one, prior, None)
                of_batch.append(jax.device_get(info))
            kept = min(max_lanes, len(index) - begin)
            carries.append(
                jax.tree.map(lambda leaf, n=kept: np.asarray(leaf)[:n], moved)
            )
            infos.append(_join(of_batch, length, 0, kept))
            done += kept * length
            on_progress(done, total)
        together = (
            jax.tree.map(lambda *parts: np.concatenate(parts), *several)
            for several in (carries, infos)
        )
        return *together, done

    every = np.arange(num_lanes)
    carry, early, done = advance(every, None, slice(None, cut), 0)
    residual = early.residual[:, -1].reshape(-1, num_starts)
    # NaN is sorted last.
    order = np.argsort(residual, axis=1, kind='stable')[:, :num_kept]
    index = np.sort(order + num_starts * np.arange(len(order))[:, None]).ravel()
    carry, early = (
        jax.tree.map(lambda leaf: leaf[index], kept) for kept in (carry, early)
    )
    infos = [early]
    if cut < num_rows:
        carry, late, _ = advance(index, carry, slice(cut, None), done)
        infos.append(late)
    info = jax.tree.map(
        lambda *parts: np.pad(
            np.concatenate(parts, axis=1),
            ((0, 0), (skipped, 0)),
            constant_values=np.nan,
        ),
        *infos,
    )
    x = np.asarray(_finish(_hand_out(lanes, index), carry, None))
    return Result(index, x, info)


def first_nonfinite_step(info: Info) -> np.ndarray:
    """(B,) index of each lane's first step that was not finite; -1 for none.

    Steps that were left out are NaN in all fields and do not count; a step
    that was taken has a finite fraction of clipped values whatever happened.
    """
    taken = np.isfinite(info.clipped)
    bad = taken & ~np.isfinite(info.residual + info.guidance + info.prior_step)
    return np.where(bad.any(axis=1), bad.argmax(axis=1), -1)

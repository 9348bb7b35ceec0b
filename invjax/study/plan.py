"""What a study consists of, before anything runs: a plan, and its data.

All that a cell's picture depends on is in its protocol, and the protocol is
hashed to the cell's name: another seed, operator, setting, version of the method
or set of weights is another cell.
"""

import dataclasses
import hashlib
import inspect
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from invjax import (
    batch,
    keys,
    metrics,
    operators,
    problem,
    schedule,
    tuning,
)
from invjax.methods import Method
from invjax.priors.denoiser import Denoiser
from invjax.problem import Problem
from invjax.types import Array

# Of what is in a protocol, and of what its names mean. Raised when the same
# protocol would mean another picture: 2, keys that do not overlap.
PROTOCOL = 2
# Scores of the measurement itself stand under this name in place of a method's.
MEASUREMENT = 'measurement'


@dataclasses.dataclass(frozen=True)
class Data:
    """What all cells of a study share.

    Attributes:
        prior: see `invjax.types.Prior`.
        truths: (H, W, C) in [-1, 1] each; None where it is not known of a
            measurement that was brought.
        first_image: number of the first one in its data set, by which images
            have their keys.
        distances: LPIPS in the variants that are wanted.
    """

    prior: Any
    truths: Sequence[Array | None]
    first_image: int = 0
    distances: Sequence[metrics.LPIPS] = ()

    def truth(self, number: int) -> Array | None:
        """The image of a number of the data set."""
        return self.truths[number - self.first_image]

    def numbered(self):
        """(number, truth) of each image."""
        return enumerate(self.truths, start=self.first_image)


def make_data(
    truths: Sequence[jax.typing.ArrayLike],
    prior,
    first_image: int = 0,
    distances: Sequence[metrics.LPIPS] = (),
) -> Data:
    """Images and a prior that fit together.

    Args:
        truths: (N, H, W, C), or N of (H, W, C), in [-1, 1].
        prior: of images of that size.
        first_image, distances: see `Data`.

    Raises:
        ValueError: for no image, or one that the prior is not for.
    """
    if not len(truths):
        raise ValueError('there must be at least one image, got none.')
    wanted = tuple(prior.image_shape)
    found = [np.asarray(truth) for truth in truths]
    for number, truth in enumerate(found):
        if truth.shape != wanted:
            raise ValueError(
                f'images must be {wanted}, as those of the prior are, got '
                f'{truth.shape} of image {number}.'
            )
        if truth.dtype.kind != 'f' or not np.all(np.abs(truth) <= 1):
            raise ValueError(
                'images must be floats in [-1, 1], got '
                f'{truth.dtype} from {truth.min()} to {truth.max()} of image '
                f'{number}.'
            )
    floats = [truth.astype(np.float32) for truth in found]
    return Data(prior, floats, first_image, tuple(distances))


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which cells: all images, and of each all samples, noises and methods.

    Attributes:
        task: a name.
        methods: which differ in numbers alone, so that one program serves all.
        num_steps: any form that `schedule.respace` takes.
        noise_stds: in [-1, 1] units.
        noise: `noise` and its parameters, or nothing where it is Gaussian.
        task_parameters: the task's own.
        num_samples: of each image and method.
        seed: of everything random.
        hold_out: fraction of the measured pixels that is kept from the method;
            for masks.
        has_costs: whether scores are to have network evaluations, `forward` and
            `backward`, and `seconds`: those of a batch, without compilation,
            over its lanes.

    Raises:
        ValueError: for no method, methods that differ in more than numbers, or
            a number that is out of its range.
    """

    task: str | None
    methods: Sequence[Method]
    num_steps: int | str = 100
    noise_stds: Sequence[float] = (0.05,)
    noise: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    task_parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    num_samples: int = 1
    seed: int = 0
    hold_out: float = 0.0
    has_costs: bool = False

    def __post_init__(self):
        if not self.methods:
            raise ValueError('a plan must have at least one method, got none.')
        batch.stack_methods(self.methods)
        number = self.num_samples
        if number != int(number) or number < 1:
            raise ValueError(
                f'num_samples must be a whole number of 1 or more, got {number}.'
            )
        if not 0 <= self.hold_out < 1:
            raise ValueError(
                f'hold_out must be from 0 to below 1, got {self.hold_out}.'
            )

    def check(self, prior, problems: Sequence[Problem]) -> None:
        """Refuse what cannot be run, before any work.

        Raises:
            ValueError: for an operator that the methods cannot do, a timestep
                or a number of steps that the prior does not have, or problems
                of other images than the prior's.
        """
        num_train_steps = len(prior.alpha_bar)
        schedule.respace(self.num_steps, num_train_steps)
        for method in self.methods:
            method.check(num_train_steps)
        for found in problems:
            self.methods[0].check_operator(found.operator)
            if tuple(found.image_shape) != tuple(prior.image_shape):
                raise ValueError(
                    f'problems must be of images of {tuple(prior.image_shape)}, '
                    f'as those of the prior are, got {found.image_shape}.'
                )

    def root(self) -> jax.Array:
        """The key of the study."""
        return keys.root(self.seed)

    def problem(self, number: int, truth: Array, noise_std) -> Problem:
        """The measurement of an image."""
        assert self.task is not None  # Else the problems were brought.
        root = self.root()
        operator = operators.make_operator(
            self.task,
            keys.of_operator(root, number),
            truth.shape,
            **self.task_parameters,
        )
        measured = problem.measure(
            keys.of_noise(root, number),
            truth,
            operator,
            noise_std,
            **self.noise,
        )
        return dataclasses.replace(measured, task=self.task)

    def problems(self, data: Data) -> list[Problem]:
        """That of each image, for each noise; images vary fastest."""
        return [
            self.problem(number, truth, noise_std)
            for noise_std in self.noise_stds
            for number, truth in data.numbered()
        ]

    def parts(
        self, data: Data, problems: Sequence[Problem]
    ) -> list[tuple[Problem, Problem | None]]:
        """What a method sees of each problem, and what is held out of it."""
        if not self.hold_out:
            return [(measured, None) for measured in problems]
        numbers = itertools.cycle(number for number, _ in data.numbered())
        return [
            tuning.hold_out(
                keys.of_held_out(self.root(), number), measured, self.hold_out
            )
            for number, measured in zip(numbers, problems, strict=False)
        ]

    def protocols(
        self, data: Data, problems: Sequence[Problem]
    ) -> tuple[list[dict], list[dict]]:
        """Those of the measurements and of the cells, in the order of lanes."""
        measured, cells = [], []
        of_prior = describe_prior(data.prior)
        pairs = itertools.product(self.noise_stds, data.numbered())
        for (noise_std, (number, truth)), found in zip(
            pairs, problems, strict=True
        ):
            shared = {
                'protocol': PROTOCOL,
                'task': self.task,
                'operator': found.operator.describe(),
                'image': number,
                'image_sha256': None if truth is None else _digest(truth),
                **self.describe_measurement(found, noise_std),
            }
            measured.append(
                {**shared, 'method': MEASUREMENT, 'sample': 0, 'settings': {}}
            )
            cells += [
                {
                    **shared,
                    **of_prior,
                    **_finite(method.describe()),
                    'num_steps': str(self.num_steps).strip(),
                    'seed': self.seed,
                    'sample': sample,
                    'hold_out': self.hold_out,
                }
                for sample in range(self.num_samples)
                for method in self.methods
            ]
        return measured, cells

    def describe_measurement(
        self, found: Problem, noise_std: float
    ) -> dict[str, Any]:
        """What a measurement depends on beside its image and operator."""
        del found
        assert self.task is not None  # Else the problems were brought.
        noise = {'noise': 'gaussian', **self.noise}
        return {
            'task_parameters': {
                **_defaults_of(self.task),
                **self.task_parameters,
            },
            'noise_std': float(noise_std),
            'noise': {
                'noise': noise['noise'],
                **problem.check_noise(**noise),
            },
            'seed': self.seed,
        }


@dataclasses.dataclass(frozen=True)
class Brought(Plan):
    """A plan of measurements that are brought, and not made of images.

    `data.truths` are those of the problems, and `noise_stds` has one entry.

    Attributes:
        measured: the problems, of one kind of operator and one shape.
    """

    measured: Sequence[Problem] = ()

    def problems(self, data: Data) -> list[Problem]:
        """That of each image."""
        del data
        return list(self.measured)

    def describe_measurement(
        self, found: Problem, noise_std: float
    ) -> dict[str, Any]:
        """What a measurement depends on beside its image and operator."""
        del noise_std
        return {
            'noise_std': float(found.noise_std),
            'problem_sha256': _digest(*jax.tree.leaves(found.bare())),
        }


def _defaults_of(task: str) -> dict[str, Any]:
    """A task's parameters where none is given; None follows the image's size."""
    signature = inspect.signature(operators.OPERATORS[task]).parameters
    return {
        name: signature[name].default for name in operators.parameters(task)
    }


def _digest(*arrays: jax.typing.ArrayLike) -> str:
    """SHA-256 of the shapes and values of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        values = np.asarray(array)
        if values.dtype.kind == 'f':
            values = values.astype(np.float32)
        digest.update(f'{values.shape}'.encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _finite(described: dict[str, Any]) -> dict[str, Any]:
    """A description whose infinite numbers are 'inf', for JSON has none."""
    settings = {
        name: 'inf' if value == math.inf else value
        for name, value in described['settings'].items()
    }
    return {**described, 'settings': settings}


def grid(**values: Sequence[float]) -> list[dict[str, float]]:
    """All combinations of some values of each name, the last fastest."""
    return [
        dict(zip(values, combination, strict=True))
        for combination in itertools.product(*values.values())
    ]


def describe_prior(prior) -> dict[str, str]:
    """What tells one prior's results from another's."""
    card = getattr(prior, 'card', None) or {}
    identity = card.get('prior_sha256') or card.get('sha256')
    if identity is None:
        values = [*jax.tree.leaves(prior), prior.alpha_bar]
        if isinstance(prior, Denoiser):
            values.append(_answers(prior))
        identity = f'{type(prior).__name__} {_digest(*values)}'
    network = getattr(prior, 'network', None)
    dtype = np.dtype(getattr(network, 'dtype', np.float32)).name
    described = {'prior': identity, 'dtype': dtype}
    if card:
        # The card says the size of the training, and of no class.
        described['shape'] = 'x'.join(map(str, prior.image_shape))
        if getattr(prior, 'label', None) is not None:
            described['label'] = str(int(prior.label))
    return described


def _answers(prior: Denoiser) -> np.ndarray:
    """What a function says of a noisy image, which is all that tells it.

    In half precision, so that another machine's rounding seldom changes it.
    """
    num_levels = len(prior.alpha_bar)
    rows = np.linspace(0, num_levels - 1, 3).round()
    x_t = np.random.default_rng(0).standard_normal(
        prior.image_shape, dtype=np.float32
    )
    ask = jax.jit(lambda x_t, t: prior(x_t, t).eps)
    return np.array([ask(x_t, row) for row in rows], np.float16)

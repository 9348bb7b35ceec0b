"""What a study consists of, before anything runs: a plan, and its data.

All that a cell's picture depends on is in its protocol, and the protocol is
hashed to the cell's name: another seed, operator, setting, version of the method
or set of weights is another cell.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from invjax import keys, metrics, operators, problem, tuning
from invjax.methods import Method
from invjax.problem import Problem

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
        truths: (H, W, C) in [-1, 1] each.
        first_image: number of the first one in its data set, by which images
            have their keys.
        distances: LPIPS in the variants that are wanted.
    """

    prior: Any
    truths: Sequence[np.ndarray]
    first_image: int = 0
    distances: Sequence[metrics.LPIPS] = ()

    def truth(self, number: int) -> np.ndarray:
        """The image of a number of the data set."""
        return self.truths[number - self.first_image]

    def numbered(self):
        """(number, truth) of each image."""
        return enumerate(self.truths, start=self.first_image)


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
    """

    task: str
    methods: Sequence[Method]
    num_steps: int | str = 100
    noise_stds: Sequence[float] = (0.05,)
    noise: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    task_parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    num_samples: int = 1
    seed: int = 0
    hold_out: float = 0.0
    has_costs: bool = False

    def root(self) -> jax.Array:
        """The key of the study."""
        return keys.root(self.seed)

    def problem(self, number: int, truth: np.ndarray, noise_std) -> Problem:
        """The measurement of an image."""
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
        return measured.replace(task=self.task)

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
                'noise_std': noise_std,
                'noise': dict(self.noise) or {'noise': 'gaussian'},
                'seed': self.seed,
                'image': number,
                'image_sha256': hashlib.sha256(
                    np.ascontiguousarray(truth, np.float32).tobytes()
                ).hexdigest(),
            }
            measured.append(
                {**shared, 'method': MEASUREMENT, 'sample': 0, 'settings': {}}
            )
            cells += [
                {
                    **shared,
                    **of_prior,
                    **method.describe(),
                    'num_steps': str(self.num_steps),
                    'sample': sample,
                    'hold_out': self.hold_out,
                }
                for sample in range(self.num_samples)
                for method in self.methods
            ]
        return measured, cells


def grid(**values: Sequence[float]) -> list[dict[str, float]]:
    """All combinations of some values of each name, the last fastest."""
    return [
        dict(zip(values, combination, strict=True))
        for combination in itertools.product(*values.values())
    ]


def describe_prior(prior) -> dict[str, str]:
    """What tells one prior's results from another's."""
    card = getattr(prior, 'card', None)
    if card is not None:
        identity = card.get('parameters_sha256') or card['sha256']
    else:
        digest = hashlib.sha256(type(prior).__name__.encode())
        for leaf in jax.tree.leaves(prior):
            digest.update(np.asarray(leaf).tobytes())
        identity = digest.hexdigest()
    network = getattr(prior, 'network', None)
    dtype = np.dtype(getattr(network, 'dtype', np.float32)).name
    return {'prior': identity, 'dtype': dtype}

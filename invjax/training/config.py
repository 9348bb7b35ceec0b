"""What a training run is, as one value that does not change."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from invjax import schedule
from invjax.training import data

CROPS = data.CROPS
FLIPS = data.FLIPS
OPTIMIZERS = ('adamw', 'adam', 'muon')
DECAYS = ('none', 'cosine', 'linear')
WEIGHTINGS = ('simple', 'min_snr', 'balanced')
DTYPES = ('float32', 'bfloat16')
RESAMPLINGS = ('resblock', 'conv', 'plain')

# Networks by name: fields of `UNet`. `adm` are Dhariwal and Nichol's, without
# classes and dropout, by the side of the images.
_SMALL = {
    'model_channels': 32,
    'channel_mult': (1, 2, 4, 8),
    'num_res_blocks': 1,
    'attention_downsamplings': (4, 8),
    'head_channels': 64,
}
PRESETS: dict[str, dict[str, Any]] = {
    'tiny': {
        'model_channels': 32,
        'channel_mult': (1, 1),
        'num_res_blocks': 1,
        'attention_downsamplings': (),
        'head_channels': 32,
    },
    'small': _SMALL,
    'medium': {
        'model_channels': 64,
        'channel_mult': (1, 2, 3, 4),
        'num_res_blocks': 2,
        'attention_downsamplings': (4, 8),
        'head_channels': 64,
    },
}
_ADM = {
    64: {
        'model_channels': 192,
        'channel_mult': (1, 2, 3, 4),
        'num_res_blocks': 3,
        'attention_downsamplings': (2, 4, 8),
        'head_channels': 64,
        'new_attention_order': True,
    },
    128: {
        'model_channels': 256,
        'channel_mult': (1, 1, 2, 3, 4),
        'num_res_blocks': 2,
        'attention_downsamplings': (4, 8, 16),
        'num_heads': 4,
        'head_channels': None,
    },
    256: {
        'model_channels': 256,
        'channel_mult': (1, 1, 2, 2, 4, 4),
        'num_res_blocks': 2,
        'attention_downsamplings': (8, 16, 32),
        'head_channels': 64,
    },
}
PRESET_NAMES = (*PRESETS, 'adm')
DEFAULT_PRESET = 'small'
NETWORK_FIELDS = (
    'model_channels',
    'channel_mult',
    'num_res_blocks',
    'attention_downsamplings',
    'head_channels',
    'resample',
)


@dataclasses.dataclass(frozen=True)
class Config:
    """A training run: data, network, loss, optimiser, and what is written when.

    Attributes:
        images: a folder of pictures, `FILE.npz:KEY`, `FILE.npy`, or
            `phantoms:NUMBER`; see `data.open_pictures`.
        out: folder of the run. One that has a run is gone on with.
        size: (H, W) in pixels, which must be equal.
        channels: C, 1, 2 or 3. Two are the real and imaginary part of complex
            arrays, or whatever two an array has.
        value_range: the values that become -1 and 1; None for the rules of
            `data.open_pictures`.
        crop: `centre`, the largest part of that shape from the middle, resized;
            or `random`, a window of that size at a random place, as it is.
        flips: `none`, `horizontal`, or `all`, the eight of a square.
        held_out: the fraction of the pictures that is not trained on, below 1. At
            least one picture, unless it is 0.
        name: of the prior, on its card; None for the name of `out`.
        licence: of the data, as it shall stand on the card.

        preset: of the network, one of PRESET_NAMES; None for that of `init`, or
            `small` without one.
        network: fields of NETWORK_FIELDS in place of the preset's. With `init`
            only `attention_downsamplings`, all of that prior's and others: layers
            of attention are added, which begin as the identity.
        learned_variance: whether the network learns it.
        noise_schedule: a name of `schedule.SCHEDULES`; None for that of `init`,
            or `linear`.
        num_train_steps: T, 2 or more; None for that of `init`, or 1000.
        init: a prior to go on from, in any form that `load_prior` takes; for
            other families than guided-diffusion's with its own channels and
            noise levels.
        dtype: of the computation; parameters, averages and optimiser are
            float32.
        remat: whether gradients recompute the inside of blocks to save memory.

        num_steps: of the optimiser, in all.
        batch: images of a step.
        accumulate: parts that a batch is computed in, one after the other,
            which takes as much less memory.
        optimizer: one of OPTIMIZERS; see `step.make_optimizer`.
        learning_rate: the largest.
        warm_up: steps in which it rises from 0.
        decay: how it falls to 0 until the last step; one of DECAYS.
        weight_decay: of kernels alone, by adamw, and by muon of those that it
            takes as matrices.
        beta2: how long the optimiser remembers squares of gradients.
        clip: the largest norm of a gradient; longer ones are cut to it.
        half_lives: of the averaged weights, in images; the prior is the one of
            them with the smaller held-out loss.

        weighting: `simple`, the same for all timesteps (Ho et al.), `min_snr`,
            or `balanced`; see `loss.image_loss`.
        min_snr: gamma of `min_snr`.
        variance_weight: of the variational bound that the variance learns by;
            0.001 T is Nichol and Dhariwal's at any T.
        pooled_weight: of the error of averages, which keeps the colours of
            small networks right; 0 leaves it out.

        seed: of everything random.
        save_every: steps between two checkpoints.
        keep: how many of them.
        show_every: steps between two looks: held-out loss, samples, page, and
            the prior as it is.
        num_samples: on the sheet of samples.

    Raises:
        ValueError: one sentence on the first value that cannot be.
    """

    images: str
    out: str
    size: tuple[int, int] = (64, 64)
    channels: int = 3
    value_range: tuple[float, float] | None = None
    crop: str = 'centre'
    flips: str = 'horizontal'
    held_out: float = 0.02
    name: str | None = None
    licence: str = 'not stated'

    preset: str | None = None
    network: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    learned_variance: bool = True
    noise_schedule: str | None = None
    num_train_steps: int | None = None
    init: str | None = None
    dtype: str = 'float32'
    remat: bool = False

    num_steps: int = 100_000
    batch: int = 32
    accumulate: int = 1
    optimizer: str = 'adamw'
    learning_rate: float = 2e-4
    warm_up: int = 500
    decay: str = 'none'
    weight_decay: float = 0.01
    beta2: float = 0.999
    clip: float = 1.0
    half_lives: tuple[int, int] = (10_000, 100_000)

    weighting: str = 'simple'
    min_snr: float = 5.0
    variance_weight: float = 0.001
    pooled_weight: float = 0.0

    seed: int = 0
    save_every: int = 200
    keep: int = 2
    show_every: int = 1000
    num_samples: int = 16

    def __post_init__(self):
        self._check_numbers()
        self._check_choices()
        if self.size[0] != self.size[1]:
            raise ValueError(
                'size must be a square, since the networks of priors are for '
                f'one side, got {self.size[0]} x {self.size[1]}.'
            )
        if self.batch % self.accumulate:
            raise ValueError(
                f'a batch of {self.batch} images cannot be cut into '
                f'{self.accumulate} equal parts; accumulate must divide it.'
            )
        if self.value_range is not None and len(self.value_range) != 2:
            raise ValueError(
                'value_range must be two values, those of black and of white, '
                f'got {self.value_range}.'
            )
        self._check_network()

    def _check_network(self):
        unknown = set(self.network) - set(NETWORK_FIELDS)
        if unknown:
            raise ValueError(
                f'{min(unknown)} is no field of the network; they are '
                f'{", ".join(NETWORK_FIELDS)}.'
            )
        if self.init is not None:
            if self.preset or set(self.network) - {'attention_downsamplings'}:
                raise ValueError(
                    f'the network is that of {self.init}, to which only '
                    'attention_downsamplings may add; leave out the preset and '
                    'other fields, or go on from no prior.'
                )
            return  # What it attends at is checked beside that network.
        resample = self.network.get('resample', RESAMPLINGS[0])
        if resample not in RESAMPLINGS:
            raise ValueError(
                f'resample must be one of {", ".join(RESAMPLINGS)}, got '
                f'{resample!r}.'
            )
        if self.preset == 'adm' and self.size[0] not in _ADM:
            raise ValueError(
                f'adm has networks for {", ".join(map(str, _ADM))} pixels, '
                f'got a size of {self.size[0]}.'
            )
        check_attention(
            self.network.get('attention_downsamplings', ()),
            len(self.network_fields()['channel_mult']),
        )

    def _check_numbers(self):
        for name, least, most in (
            ('batch', 1, math.inf),
            ('accumulate', 1, math.inf),
            ('num_steps', 1, math.inf),
            ('warm_up', 0, math.inf),
            ('save_every', 1, math.inf),
            ('keep', 1, math.inf),
            ('show_every', 1, math.inf),
            ('num_samples', 1, 256),
            ('seed', 0, 2**32 - 1),
        ):
            value = getattr(self, name)
            if value != int(value) or not least <= value <= most:
                upper = '' if most == math.inf else f' and at most {most}'
                raise ValueError(
                    f'{name} must be a whole number of at least {least}{upper}, '
                    f'got {value}.'
                )
        for name, lower, is_open in (
            ('learning_rate', 0, True),
            ('weight_decay', 0, False),
            ('clip', 0, True),
            ('min_snr', 0, True),
            ('variance_weight', 0, False),
            ('pooled_weight', 0, False),
        ):
            value = getattr(self, name)
            if not lower <= value < math.inf or (is_open and value == lower):
                word = 'above' if is_open else 'at least'
                raise ValueError(f'{name} must be {word} {lower}, got {value}.')
        for name in ('held_out', 'beta2'):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f'{name} must be at least 0 and below 1, got '
                    f'{getattr(self, name)}.'
                )
        if len(self.half_lives) != 2 or min(self.half_lives) <= 0:
            raise ValueError(
                'half_lives must be two numbers of images above 0, got '
                f'{self.half_lives}.'
            )
        if len(self.size) != 2 or min(self.size) < 8:
            raise ValueError(
                f'size must be a height and a width of 8 pixels or more, got '
                f'{self.size}.'
            )
        if self.channels not in (1, 2, 3):
            raise ValueError(
                f'channels must be 1, 2 or 3, got {self.channels}.'
            )
        if self.num_train_steps is not None and self.num_train_steps < 2:
            raise ValueError(
                f'num_train_steps must be 2 or more, got {self.num_train_steps}.'
            )

    def _check_choices(self):
        for name, choices in (
            ('crop', CROPS),
            ('flips', FLIPS),
            ('optimizer', OPTIMIZERS),
            ('decay', DECAYS),
            ('weighting', WEIGHTINGS),
            ('dtype', DTYPES),
            ('preset', (None, *PRESET_NAMES)),
            ('noise_schedule', (None, *schedule.SCHEDULES)),
        ):
            value = getattr(self, name)
            if value not in choices:
                words = ', '.join(c for c in choices if c is not None)
                raise ValueError(
                    f'{name} must be one of {words}, got {value!r}.'
                )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return (*self.size, self.channels)

    @property
    def prior_name(self) -> str:
        """What the prior is called."""
        if self.name is not None:
            return self.name
        return pathlib.Path(self.out).absolute().name

    def network_fields(self) -> dict[str, Any]:
        """Fields of `UNet` by the preset and what replaces it."""
        if self.preset == 'adm':
            fields = _ADM[self.size[0]]
        else:
            fields = PRESETS[self.preset or DEFAULT_PRESET]
        return {**fields, **self.network}


def check_attention(factors: tuple[int, ...], levels: int) -> None:
    """Refuse, with a ValueError, downsamplings that a network does not have."""
    known = [2**level for level in range(levels)]
    for factor in factors:
        if factor not in known:
            raise ValueError(
                f'a network of {levels} levels attends at downsamplings of '
                f'{", ".join(map(str, known))}, got {factor}.'
            )


# What may differ when a run is gone on with; the rest would make it another.
MAY_CHANGE = (
    'out',
    'name',
    'licence',
    'dtype',
    'remat',
    'num_steps',
    'learning_rate',
    'decay',
    'clip',
    'save_every',
    'keep',
    'show_every',
    'num_samples',
)

"""What a network says of a noisy image, and in which coordinates, as data.

Here a prior is asked in variance-preserving coordinates for the noise,

    x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) n   ->   eps, close to n.

Networks have been trained to answer other questions on other coordinates. With
sigma = sqrt((1 - alpha_bar) / alpha_bar), all of these are one image but for a
factor k, where z = x_0 + sigma n = x_t / sqrt(alpha_bar):

    vp     k = sqrt(alpha_bar)             Ho et al. (2020)
    ve     k = 1                           Song and Ermon (2019)
    flow   k = 1 / (1 + sigma)             Lipman et al. (2023): (1-s) x_0 + s n
    edm    k = 1 / sqrt(sigma^2 + sigma_data^2)      Karras et al. (2022), c_in

and what a network F says is linear in what it should have said of the noise:

    eps                n = F
    x_0                n = (z - F) / sigma
    score              n = -k sigma F      of the density of k z
    scaled_score       n = -F              sigma times the score, as in EDM's VE
    v                  n = sqrt(alpha_bar) F + sqrt(1 - alpha_bar) k_vp z,
                                           Salimans and Ho (2022)
    velocity           n = (z + F) / (1 + sigma)     F = n - x_0
    data_velocity      n = (z - F) / (1 + sigma)     F = x_0 - n
    edm                n = (z - c_skip z - c_out F) / sigma

So all that differs is a table with a few numbers for each noise level, made
once in float64. Where images are not in [-1, 1] for the network, sigma is the
deviation of the noise in its own units, and its x_0 is shifted too.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

OUTPUTS = (
    'eps',
    'x_0',
    'score',
    'scaled_score',
    'v',
    'velocity',
    'data_velocity',
    'edm',
)
COORDINATES = ('vp', 've', 'flow', 'edm')
TIMES = (
    'timestep',
    'sigma',
    'log_sigma',
    'log_half_sigma',
    'flow',
    'data_flow',
    'vp',
)


class Coefficients(NamedTuple):
    """A row for each noise level, (T,) float64 each.

    The network is given `input_scale x_t + input_shift` and `time`; then
    eps = `eps_x x_t + eps_shift + eps_output F`.
    """

    input_scale: np.ndarray
    input_shift: np.ndarray
    time: np.ndarray
    eps_x: np.ndarray
    eps_shift: np.ndarray
    eps_output: np.ndarray


@dataclasses.dataclass(frozen=True)
class Parametrisation:
    """How a network is asked, and what it answers.

    Attributes:
        output: one of OUTPUTS, see the module.
        coordinates: one of COORDINATES, of its input.
        time: what it is told of the noise level: `timestep`, the row's number;
            `sigma`; `log_sigma`, its natural logarithm; `log_half_sigma`, that
            of sigma / 2; `flow`, s = sigma / (1 + sigma); `data_flow`, 1 - s;
            `vp`, the time from 0 to 1 of the SDE of Song et al. (2021) whose
            beta goes from 0.1 to 20.
        time_scale: the time is multiplied by it.
        sigma_data: of `edm`, the standard deviation that EDM takes images for.
        data_range: lowest and highest value of clean images as the network
            knows them.

    Raises:
        ValueError: for another name, or numbers out of range.
    """

    output: str = 'eps'
    coordinates: str = 'vp'
    time: str = 'timestep'
    time_scale: float = 1.0
    sigma_data: float = 0.5
    data_range: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self):
        for name, choices in (
            ('output', OUTPUTS),
            ('coordinates', COORDINATES),
            ('time', TIMES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f'the {name} of a parametrisation must be one of '
                    f'{", ".join(choices)}, got {getattr(self, name)!r}.'
                )
        low, high = self.data_range
        if not low < high:
            raise ValueError(
                'data_range must be a lowest and a highest value, got '
                f'{self.data_range}.'
            )
        if self.sigma_data <= 0 or self.time_scale == 0:
            raise ValueError(
                'sigma_data must be above 0 and time_scale not 0, got '
                f'{self.sigma_data} and {self.time_scale}.'
            )

    def coefficients(self, alpha_bar: np.ndarray) -> Coefficients:
        """What `Coefficients` says, for noise levels (T,) of ours."""
        alpha_bar = np.asarray(alpha_bar, np.float64)
        low, high = self.data_range
        gain, shift = (high - low) / 2, (high + low) / 2
        # The network's images are gain x_0 + shift, and so is its noise.
        sigma = gain * np.sqrt((1 - alpha_bar) / alpha_bar)
        z_scale = gain / np.sqrt(alpha_bar)
        k = self._factor(sigma)
        eps_z, eps_output = self._noise(sigma, k)
        return Coefficients(
            input_scale=k * z_scale,
            input_shift=k * shift,
            time=self.time_scale * self._time(sigma),
            eps_x=eps_z * z_scale,
            eps_shift=eps_z * shift,
            eps_output=eps_output,
        )

    def loss_weights(self, alpha_bar: np.ndarray) -> np.ndarray:
        """What a squared error of eps is weighted by in training, (T,) float64.

        It then is the squared error of what the network says, as its authors
        train it: of F for `edm`, which is the loss of Karras et al. (2022, eq.
        8), of x_0 and of a velocity. A score alone is weighted by sigma^2, which
        makes it the error of the noise (Song and Ermon, 2019, section 4.2).

        Args:
            alpha_bar: noise levels, (T,).
        """
        if self.output in ('score', 'scaled_score'):
            return np.ones(len(alpha_bar))
        return 1 / np.square(self.coefficients(alpha_bar).eps_output)

    def _factor(self, sigma):
        """k, by which the network's input is z."""
        return {
            'vp': 1 / np.sqrt(1 + sigma**2),
            've': np.ones_like(sigma),
            'flow': 1 / (1 + sigma),
            'edm': 1 / np.sqrt(sigma**2 + self.sigma_data**2),
        }[self.coordinates]

    def _noise(self, sigma, k):
        """The factors of z and of the output in the noise."""
        zero, one = np.zeros_like(sigma), np.ones_like(sigma)
        data = self.sigma_data
        total = sigma**2 + data**2
        return {
            'eps': (zero, one),
            'x_0': (1 / sigma, -1 / sigma),
            'score': (zero, -k * sigma),
            'scaled_score': (zero, -one),
            'v': (sigma / (1 + sigma**2), 1 / np.sqrt(1 + sigma**2)),
            'velocity': (1 / (1 + sigma), 1 / (1 + sigma)),
            'data_velocity': (1 / (1 + sigma), -1 / (1 + sigma)),
            # c_skip = data^2 / total and c_out = sigma data / sqrt(total).
            'edm': (sigma / total, -data / np.sqrt(total)),
        }[self.output]

    def _time(self, sigma):
        if self.time == 'timestep':
            return np.arange(len(sigma), dtype=np.float64)
        if self.time == 'vp':
            # alpha_bar = exp(-(19.9 t^2 / 2 + 0.1 t)), solved for t.
            power = np.log1p(sigma**2)
            return (np.sqrt(0.1**2 + 2 * 19.9 * power) - 0.1) / 19.9
        return {
            'sigma': sigma,
            'log_sigma': np.log(sigma),
            'log_half_sigma': np.log(sigma / 2),
            'flow': sigma / (1 + sigma),
            'data_flow': 1 / (1 + sigma),
        }[self.time]


# By the names that people call them.
PARAMETRISATIONS = {
    'noise': Parametrisation(),
    'clean': Parametrisation('x_0'),
    'v': Parametrisation('v'),
    'score': Parametrisation('score', 've', 'sigma'),
    'denoiser': Parametrisation('x_0', 've', 'sigma'),
    'edm': Parametrisation('edm', 'edm', 'log_sigma', time_scale=0.25),
    'flow': Parametrisation('velocity', 'flow', 'flow'),
    'data_flow': Parametrisation('data_velocity', 'flow', 'data_flow'),
}


def describe(parametrisation: Parametrisation) -> dict:
    """A parametrisation as plain data, for cards."""
    fields = dataclasses.asdict(parametrisation)
    return fields | {'data_range': list(parametrisation.data_range)}


def from_description(description: dict) -> Parametrisation:
    """The inverse of `describe`."""
    data_range = tuple(description['data_range'])
    return Parametrisation(**description | {'data_range': data_range})

"""A look at a run: its prior as it is, judged, kept and drawn."""

import dataclasses
import hashlib
import pathlib
import shlex
import time
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from invjax.priors import checkpoint, convert, families
from invjax.priors.denoiser import Denoiser
from invjax.priors.unet import NetworkPrior
from invjax.strict_json import as_json
from invjax.training import data, evaluation, network, page
from invjax.training.config import Config
from invjax.training.progress import Progress
from invjax.training.step import State

# Of the held-out pictures, those that looks are at.
_MOST_HELD_OUT = 64
_NUM_RESTORED = 2
_STORED_AS = np.float16


class Looks:
    """Looks at a run, always at the same pictures and from the same noise.

    Args:
        config: of the run.
        folder: of the run, that is written to.
        pictures: of the run.
        split: which of them are held out.
        start: what it began with.
    """

    def __init__(
        self,
        config: Config,
        folder: pathlib.Path,
        pictures: data.Pictures,
        split: data.Split,
        start: network.Start,
    ):
        self._config, self._folder = config, folder
        self._pictures, self._split, self._start = pictures, split, start
        self._held_out = None
        number = len(split.held_out)
        if number:
            # From all of them, should their order mean something.
            chosen = np.linspace(0, number - 1, min(number, _MOST_HELD_OUT))
            self._held_out = self._cut(split.held_out[chosen.astype(int)])

    def _cut(self, numbers: np.ndarray) -> np.ndarray:
        return data.middle_windows(self._pictures, numbers, self._config.size)

    def look(
        self, state: State, history: page.History, progress: Progress
    ) -> str:
        """Judge the averages; write the prior and the page; gives a sentence.

        Args:
            state: of the run, finite.
            history: gets another look.
            progress: of the run.
        """
        step = int(state.step)
        begin = time.perf_counter()
        priors = [
            dataclasses.replace(
                self._start.prior, params=_on_one_device(params)
            )
            for params in state.averages
        ]
        levels, best = [], len(priors) - 1
        if self._held_out is not None:
            levels = [evaluation.by_level(p, self._held_out) for p in priors]
            best = int(np.argmin([found.mean_error for found in levels]))
        history.looks.append(
            {
                'step': step,
                'seconds': history.seconds,
                'levels': [found.as_dict() for found in levels],
                'best': best,
            }
        )
        card = self._save_prior(priors[best].params, history, step)
        self._draw(priors[best], step)
        self._write_page(card, history, progress)
        found = ''
        if levels:
            found = f'held-out error {levels[best].mean_error:.4f}, '
        return (
            f'Step {step:,}: {found}looked at in '
            f'{time.perf_counter() - begin:.0f} s; see '
            f'{self._folder / "report.html"}.'
        )

    def save_prior(self, state: State, history: page.History) -> None:
        """Write the prior as it is, without the time that a look takes.

        It is the average that the last look found better; before any look, the
        one of the longer half-life.
        """
        best = history.looks[-1]['best'] if history.looks else -1
        params = _on_one_device(state.averages[best])
        self._save_prior(params, history, int(state.step))

    def _save_prior(
        self, params: dict, history: page.History, step: int
    ) -> dict[str, Any]:
        """Gives the card."""
        params = _stored(params)
        card = self._card(params, history, step)
        checkpoint.save_prior(self._folder / 'prior', params, card)
        return card

    def _card(
        self, params: dict, history: page.History, step: int
    ) -> dict[str, Any]:
        """All that is to be known of the prior, as plain data."""
        config, split = self._config, self._split
        prior, origin = self._start.prior, self._start.origin
        card = {
            'name': config.prior_name,
            'sha256': _sha256(params),
            **_description(prior),
            'num_parameters': network.num_parameters(params),
            'stored_as': np.dtype(_STORED_AS).name,
            'data': self._pictures.words,
            'num_pictures': len(split.trained),
            'num_held_out': len(split.held_out),
            'licence': config.licence,
            'training': {
                'command': command(config),
                'steps': step,
                'images_seen': step * config.batch,
                'hours': round(history.seconds / 3600, 2),
                'changes': history.changes,
            },
            'note': f'trained on {len(split.trained):,} pictures',
        }
        if origin is not None:
            if 'rescale_timesteps' in origin:
                card['rescale_timesteps'] = origin['rescale_timesteps']
            card['init'] = {
                name: origin.get(name)
                for name in ('name', 'sha256', 'data', 'licence')
            }
        last = history.looks[-1] if history.looks else {'step': None}
        if last['step'] == step and last['levels']:
            card['held_out_loss'] = last['levels'][last['best']]
        return as_json(card)

    def _draw(self, prior: NetworkPrior | Denoiser, step: int) -> None:
        """Samples, and restorations of pictures that were held out."""
        number = self._config.num_samples
        drawn = evaluation.samples(prior, number)
        name = f'samples-{step:08d}.png'
        page.sheet(page.in_rows(drawn)).save(self._folder / name)
        beside = self._folder / 'pictures.png'
        if not beside.is_file():
            shown = self._cut(self._split.trained[:number])
            page.sheet(page.in_rows(shown)).save(beside)
        if self._held_out is not None:
            made = evaluation.restorations(
                prior, self._held_out[:_NUM_RESTORED]
            )
            page.sheet(**made, titles=('truth', 'measured', 'restored')).save(
                self._folder / 'restorations.png'
            )

    def _write_page(self, card, history, progress) -> None:
        config, step = self._config, history.looks[-1]['step']
        page.write(
            self._folder,
            config,
            history,
            {
                'step': f'{step:,} of {config.num_steps:,}',
                'images seen': f'{step * config.batch:,}',
                'images a second': f'{progress.images_a_second:.1f}',
                'time': page.duration(history.seconds),
                'left': progress.left(step),
                'as of': time.strftime('%Y-%m-%d %H:%M:%S'),
            },
            {'config': dataclasses.asdict(config), 'card': card},
            card['training']['command'],
        )


def _on_one_device(params: dict) -> dict:
    """What all devices have, on the first of this process."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), params)


def _description(prior: NetworkPrior | Denoiser) -> dict[str, Any]:
    """What a card says of a network, its noise levels and what it says."""
    if isinstance(prior, Denoiser):
        return families.describe(prior)
    return {
        'architecture': convert.describe(prior.network),
        'noise_schedule': prior.noise_schedule,
        'num_train_steps': prior.num_train_steps,
    }


def _stored(params: dict) -> dict:
    """As it is kept: in half precision, but for frequencies of the time.

    Those are as large as fifty, and what their rounding does to an angle would
    make another embedding of it.
    """
    return dict(
        flax.traverse_util.path_aware_map(
            lambda path, leaf: np.asarray(
                leaf, np.float32 if path[-1] == 'frequencies' else _STORED_AS
            ),
            params,
        )
    )


def _sha256(params: dict) -> str:
    """Of names and values, in the order of the names."""
    leaves = flax.traverse_util.flatten_dict(params, sep='/')
    digest = hashlib.sha256()
    for name in sorted(leaves):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(leaves[name]).tobytes())
    return digest.hexdigest()


def command(config: Config) -> str:
    """The command line of a run: all that is not by default."""
    given = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == 'network':
            given += list(value.items())
        elif value != field.default:
            given.append((field.name, value))
    return ' '.join(
        ['python -m experiments.train']
        + [shlex.quote(_flag(name, value)) for name, value in given]
    )


def _flag(name: str, value) -> str:
    if isinstance(value, bool):
        return f'--{name}' if value else f'--no{name}'
    if isinstance(value, tuple | list):
        if name == 'size' and value[0] == value[1]:
            value = value[:1]
        if name == 'attention_downsamplings':
            value = value or (0,)
        value = ','.join(map(str, value))
    return f'--{name}={value}'

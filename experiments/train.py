"""Train a prior on one's own pictures, or go on with one.

    python -m experiments.train --images=DIR --size=64 --channels=1 --out=RUN
    python -m experiments.restore --prior=RUN/prior --image=face.png

The first command can be stopped, or killed, at any moment: the same one goes on
from its last checkpoint. `RUN/report.html` shows how it goes. With --init it goes
on from a prior that there is.
"""

import dataclasses

from invjax import keys, schedule, training
from invjax.commandline import groups
from invjax.commandline.flags import Flags
from invjax.commandline.program import run
from invjax.training import config as configs

FLAGS = Flags(__doc__)
_DEFAULTS = {f.name: f.default for f in dataclasses.fields(training.Config)}


def _integer(name, words, at_least=1, **kwargs):
    FLAGS.integer(name, _DEFAULTS.get(name), words, at_least, **kwargs)


def _number(name, words, **kwargs):
    FLAGS.number(name, _DEFAULTS[name], words, **kwargs)


def _choice(name, names, words, **kwargs):
    FLAGS.choice(name, _DEFAULTS[name], names, words, **kwargs)


_SECTION = 'data'
FLAGS.string(
    'images',
    None,
    'A folder of pictures, FILE.npz:KEY, FILE.npy, or phantoms:NUMBER.',
    section=_SECTION,
)
FLAGS.strings('size', ['64'], 'Side, or height and width.', section=_SECTION)
_integer('channels', '1, 2 or 3.', at_most=3, section=_SECTION)
FLAGS.strings(
    'value_range',
    [],
    'Of an array: the values that are black and white, as 0,4095.',
    section=_SECTION,
)
_choice(
    'crop',
    configs.CROPS,
    'centre: the largest part of that shape from the middle, resized; random: '
    'windows at random places, as they are.',
    section=_SECTION,
)
_choice('flips', configs.FLIPS, 'all: the eight of a square.', section=_SECTION)
_number(
    'held_out',
    'Share of the pictures that is not trained on.',
    at_least=0,
    section=_SECTION,
)
FLAGS.string('name', None, 'Of the prior [that of --out].', section=_SECTION)
FLAGS.string(
    'licence',
    _DEFAULTS['licence'],
    'Of the data, for the card.',
    section=_SECTION,
)

_SECTION = 'network'
_choice(
    'preset',
    configs.PRESET_NAMES,
    f'A network by name [{configs.DEFAULT_PRESET}]; the flags below replace its '
    'fields.',
    section=_SECTION,
)
_integer('model_channels', 'Of the first level; 32 or more.', section=_SECTION)
FLAGS.strings(
    'channel_mult',
    [],
    'Channels of each level over those of the first, as 1,2,4.',
    section=_SECTION,
)
_integer('num_res_blocks', 'Of each level.', section=_SECTION)
FLAGS.strings(
    'attention_downsamplings',
    [],
    'Downsamplings at which it attends, as 4,8; 0 for none. With --init these may '
    'be more than that prior has.',
    section=_SECTION,
)
_integer('head_channels', 'Of a head of attention.', section=_SECTION)
FLAGS.choice(
    'resample',
    None,
    configs.RESAMPLINGS,
    'Between levels: residual blocks, a convolution, or nothing but the mean or '
    'copy of pixels, which is the fastest [resblock].',
    section=_SECTION,
)
FLAGS.boolean(
    'learned_variance',
    _DEFAULTS['learned_variance'],
    'Whether it learns the variance of a step.',
    section=_SECTION,
)
_choice(
    'noise_schedule',
    list(schedule.SCHEDULES),
    'Levels of noise [linear].',
    section=_SECTION,
)
_integer('num_train_steps', 'T [1000].', 2, section=_SECTION)
FLAGS.string(
    'init',
    None,
    'A prior to go on from, of any size, and for the family of guided-diffusion '
    'any number of channels.',
    section=_SECTION,
)
_choice('dtype', configs.DTYPES, 'Of the computation.', section=_SECTION)
FLAGS.boolean(
    'remat',
    _DEFAULTS['remat'],
    'Compute the inside of blocks twice, to save memory.',
    section=_SECTION,
)

_SECTION = 'optimiser'
_integer('num_steps', 'In all.', section=_SECTION)
_integer('batch', 'Images of a step.', section=_SECTION)
_integer(
    'accumulate',
    'Parts that a batch is computed in, to save memory.',
    section=_SECTION,
)
_choice('optimizer', configs.OPTIMIZERS, 'Which one.', section=_SECTION)
_number('learning_rate', 'The largest.', above=0, section=_SECTION)
_integer('warm_up', 'Steps in which it rises.', 0, section=_SECTION)
_choice(
    'decay', configs.DECAYS, 'How it falls until the end.', section=_SECTION
)
_number('weight_decay', 'Of adamw and muon.', at_least=0, section=_SECTION)
_number('beta2', 'Of the squares.', at_least=0, section=_SECTION)
_number('clip', 'Largest norm of a gradient.', above=0, section=_SECTION)
FLAGS.strings(
    'half_lives',
    list(map(str, _DEFAULTS['half_lives'])),
    'Of the two averages of the weights, in images.',
    section=_SECTION,
)

_SECTION = 'loss'
_choice(
    'weighting',
    configs.WEIGHTINGS,
    'Of timesteps: all alike, small noise less, or each level of noise by '
    'its usual error.',
    section=_SECTION,
)
_number('min_snr', 'gamma of min_snr.', above=0, section=_SECTION)
_number(
    'variance_weight',
    'Of the variational bound that teaches the variance.',
    at_least=0,
    section=_SECTION,
)
_number(
    'pooled_weight',
    'Of the error of averages, which keeps colours of small networks right; '
    '0.1, say.',
    at_least=0,
    section=_SECTION,
)

_SECTION = 'run'
FLAGS.string('out', None, 'Folder of the run.', section=_SECTION)
FLAGS.integer(
    'seed',
    0,
    'Of everything random.',
    at_least=0,
    at_most=keys.MAX_SEED,
    section=_SECTION,
)
_integer('save_every', 'Steps between checkpoints.', section=_SECTION)
_integer('keep', 'Checkpoints that are kept.', section=_SECTION)
_integer(
    'show_every',
    'Steps between looks: held-out loss, samples, page, prior.',
    section=_SECTION,
)
_integer('num_samples', 'On a sheet.', at_most=256, section=_SECTION)
groups.define_processes(FLAGS)


def config_of(given) -> training.Config:
    """What the flags say; ValueError for a flag that is missing or no number."""
    for name in ('images', 'out'):
        if getattr(given, name) is None:
            raise ValueError(f'give --{name}.')
    values = {
        name: getattr(given, name) for name in _DEFAULTS if name != 'network'
    }
    size = _numbers(given, 'size', int)
    values['size'] = size * 2 if len(size) == 1 else size
    values['value_range'] = _numbers(given, 'value_range', float) or None
    values['half_lives'] = _numbers(given, 'half_lives', int)
    network = {
        'model_channels': given.model_channels,
        'channel_mult': _numbers(given, 'channel_mult', int) or None,
        'num_res_blocks': given.num_res_blocks,
        'attention_downsamplings': _numbers(
            given, 'attention_downsamplings', int
        )
        or None,
        'head_channels': given.head_channels,
        'resample': given.resample,
    }
    if network['attention_downsamplings'] == (0,):
        network['attention_downsamplings'] = ()
    values['network'] = {n: v for n, v in network.items() if v is not None}
    return training.Config(**values)


def _numbers(given, name: str, kind: type) -> tuple:
    texts = getattr(given, name)
    try:
        return tuple(kind(text) for text in texts)
    except ValueError:
        raise ValueError(
            f'--{name} must be numbers parted by commas, got '
            f'{",".join(texts)!r}.'
        ) from None


def main(given):
    config = config_of(given)
    groups.divide_cpu(given.cpu_devices)
    groups.join_training(given)
    outcome = training.train(config, say=lambda line: print(line, flush=True))
    print(f'{outcome.words}; the prior is {outcome.prior}.')


def needs_huge_pages(given) -> bool:
    del given
    return True


if __name__ == '__main__':
    run(main, FLAGS, needs_huge_pages=needs_huge_pages)

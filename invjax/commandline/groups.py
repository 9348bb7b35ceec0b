"""Flags that several binaries have, and what is made of their values."""

import inspect
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invjax import (
    docstrings,
    keys,
    methods,
    operators,
    problem,
    restoration,
    schedule,
    settings,
)
from invjax.commandline.flags import Flags, Given
from invjax.diffusion import VARIANCES
from invjax.priors import checkpoint, edm

NUM_STEPS_WORDS = (
    "Reverse steps: a number, 'quad20', 'ddim50', or a list such as '10,20,30'."
)
# The most of anything that is counted, such as samples and lanes.
MOST = 10**6
_SETTINGS, _TASK, _NOISE = 'settings', 'task', 'noise'
_OVERRIDES = 'overrides'
# Measured on two cores; each more has its own copy of the parameters.
_MOST_CPU_DEVICES = 4


def define_prior(flags: Flags) -> None:
    """--prior, what a file does not tell of itself, --size, --label, --dtype.

    `load_prior` reads them.
    """
    flags.string(
        'prior',
        'faces64',
        f'One of {", ".join(checkpoint.KNOWN_PRIORS)}, a file of weights, a '
        'folder that diffusers saved, OWNER/NAME of one on the hub, or the '
        'folder of a kept prior.',
    )
    flags.choice(
        'dtype', 'float32', ['float32', 'bfloat16'], 'Of the computation.'
    )
    flags.strings(
        'size',
        [],
        'HEIGHT,WIDTH of the images, where it is not that of the training.',
        section='prior',
    )
    flags.integer(
        'label',
        None,
        'The class of the images, from 0, for a prior that tells classes apart.',
        at_least=0,
        section='prior',
    )
    define_overrides(flags, section='weights file')


def define_overrides(flags: Flags, section: str | None = None) -> None:
    """What a file of weights does not tell of itself; see `overrides_of`."""
    fields: dict[str, Any] = {'section': section} if section else {}
    fields['group'] = _OVERRIDES
    flags.integer('image_size', None, 'Side of its images, pixels.', **fields)
    flags.integer(
        'head_channels', None, 'Channels of a head.', at_least=1, **fields
    )
    flags.integer(
        'num_heads', None, 'Instead of their channels.', at_least=1, **fields
    )
    flags.boolean(
        'new_attention_order',
        None,
        'Split heads after queries, keys, values.',
        **fields,
    )
    flags.string(
        'noise_schedule',
        None,
        'That it was trained with, '
        f'{" or ".join(schedule.SCHEDULES)} [linear].',
        **fields,
    )
    flags.integer(
        'num_train_steps',
        None,
        'Timesteps of its training [1000].',
        at_least=2,
        at_most=100_000,
        **fields,
    )
    flags.boolean(
        'rescale_timesteps',
        None,
        'Whether it was told timesteps as if there were 1000 of them [false].',
        **fields,
    )
    flags.string(
        'weights_key',
        None,
        'Which weights of the file, rather than averaged ones: the keys that '
        'lead to them, joined by dots.',
        **fields,
    )
    flags.string(
        'preconditioning',
        None,
        f"Of a state dict of EDM's: {', '.join(edm.PRECONDITIONINGS)} "
        f'[{edm.PRECONDITIONINGS[0]}].',
        **fields,
    )
    flags.boolean(
        'check',
        None,
        'Whether it must denoise a picture, as trained weights do [true].',
        **fields,
    )


def overrides_of(given: Given) -> Mapping[str, Any]:
    """What of `define_overrides` stands on the command line."""
    return given.groups[_OVERRIDES]


def _size_of(given: Given) -> tuple[int, int] | None:
    if not given.size:
        return None
    try:
        height, width = map(int, given.size)
    except ValueError:
        raise ValueError(
            '--size must be HEIGHT,WIDTH in pixels, got '
            f'{",".join(given.size)!r}.'
        ) from None
    return height, width


def define_run(flags: Flags, num_steps: str | None = '100') -> None:
    """--seed, --out, and --num_steps with its default, where there are steps."""
    if num_steps is not None:
        flags.string('num_steps', num_steps, NUM_STEPS_WORDS)
    flags.integer(
        'seed',
        0,
        'Of everything random.',
        at_least=0,
        at_most=keys.MAX_SEED,
    )
    flags.string(
        'out', None, 'Folder for the results; by default a new one in out/.'
    )


def define_noise(flags: Flags) -> None:
    """--noise_std, --noise and its parameters; `noise_of` reads them."""
    flags.number(
        'noise_std',
        0.05,
        'Of the noise, in [-1, 1] units (half of it in [0, 1] units).',
        at_least=0,
        at_most=100,
        section='noise',
    )
    flags.choice(
        'noise',
        'gaussian',
        list(problem.NOISES),
        'Added to that of --noise_std, if another.',
        section='noise',
    )
    for kind, parameters in problem.NOISES.items():
        for name, parameter in parameters.items():
            flags.number(
                name,
                None,
                f'Of {kind}: {parameter.words}; {parameter.range_words} '
                f'[{parameter.default:g}].',
                bounded=False,
                section='noise',
                group=_NOISE,
            )


def noise_of(given: Given) -> dict[str, Any]:
    """The kind of noise and its parameters; nothing where it is Gaussian.

    Raises:
        ValueError: for a parameter of another kind, or one out of its range.
    """
    parameters = problem.check_noise(given.noise, **given.groups[_NOISE])
    if given.noise == 'gaussian':
        return {}
    return {'noise': given.noise, **parameters}


def noise_parameters(given: Given) -> Mapping[str, float]:
    """The noise's parameters that stand on the command line."""
    return given.groups[_NOISE]


def define_task(flags: Flags, several: bool = False) -> None:
    """--task, and the parameters of all tasks; `task_parameters` reads them."""
    words = f'One of {", ".join(operators.OPERATORS)}.'
    if several:
        flags.strings('tasks', ['all'], f'all, or some of: {words}')
    else:
        flags.string('task', 'box_inpainting', words)
    defined = set()
    for task, factory in operators.OPERATORS.items():
        meanings = docstrings.entries(factory.__doc__, 'Args')
        defaults = inspect.signature(factory).parameters
        for name, kind in operators.parameters(task).items():
            if name not in defined:
                _define(flags, name, kind, _TASK)
                defined.add(name)
            default = defaults[name].default
            shown = '' if default is None else f' [{default}]'
            flags.describe(name, f'task {task}', meanings.get(name, '') + shown)


def task_parameters(given: Given) -> Mapping[str, Any]:
    """The task's parameters that stand on the command line."""
    return given.groups[_TASK]


def define_transition(flags: Flags) -> None:
    """The flags of a reverse step, which all methods have."""
    section = 'reverse step'
    flags.choice(
        'transition',
        None,
        ['ddpm', 'ddim'],
        'How a step is taken [ddpm].',
        section=section,
        group=_SETTINGS,
    )
    flags.choice(
        'variance',
        None,
        list(VARIANCES),
        f'Of the ddpm step [{VARIANCES[0]}].',
        section=section,
        group=_SETTINGS,
    )
    flags.number(
        'eta',
        None,
        'Of the ddim step; from 0 to 1 [0].',
        bounded=False,
        section=section,
        group=_SETTINGS,
    )
    flags.boolean(
        'clip',
        None,
        'Clip estimates to [-1, 1] [true].',
        section=section,
        group=_SETTINGS,
    )


def define_method(flags: Flags, default: str | None = 'dps') -> None:
    """--method, and the hyperparameters of all methods; see `settings_of`.

    Args:
        default: of --method; None leaves that flag to the binary.
    """
    if default is not None:
        names = list(methods.METHODS)
        if default == restoration.AUTO:
            names.insert(0, restoration.AUTO)
        flags.string('method', default, f'One of {", ".join(names)}.')
    define_transition(flags)
    defined = set()
    for method, cls in methods.METHODS.items():
        meanings = cls.meanings()
        for name, own in cls.hyperparameters().items():
            kind = cls.kinds[name]
            if name not in defined:
                of_flag = bool if settings.is_switch(kind) else float
                is_text = settings.choices(kind)
                _define(flags, name, str if is_text else of_flag, _SETTINGS)
                defined.add(name)
            flags.describe(
                name,
                f'method {method}',
                f'{meanings[name]} ({cls.range_of(name)}) [{own}]',
            )


def settings_of(given: Given) -> Mapping[str, Any]:
    """The hyperparameters and choices that stand on the command line."""
    return given.groups[_SETTINGS]


def _define(flags: Flags, name: str, kind: type, group: str) -> None:
    """A flag that is described elsewhere, and checked by what it is for."""
    if kind is bool:
        flags.boolean(name, None, '', section=None, group=group)
    elif kind is int:
        flags.integer(name, None, '', section=None, group=group)
    elif kind is float:
        flags.number(name, None, '', bounded=False, section=None, group=group)
    else:
        flags.string(name, None, '', section=None, group=group)


def check_method(
    given: Given, method: str, more: Mapping[str, Any] | None = None
) -> None:
    """Refuse what stands on the command line for a method, before loading.

    Args:
        more: settings beside those of the flags.
    """
    restoration.resolve(method, settings={**settings_of(given), **(more or {})})


def define_grid(flags: Flags) -> None:
    """--grid; `grid_of` reads it."""
    flags.repeated(
        'grid',
        'A hyperparameter and its values, as zeta=0.3,1,3. Repeat it for all '
        'combinations.',
    )


def grid_of(given: Given) -> dict[str, list[float]]:
    """Name to values, of NAME=NUMBER,NUMBER,... each.

    Raises:
        ValueError: for a text of another form, or a name that is there twice.
    """
    grid = {}
    for text in given.grid:
        name, _, values = text.partition('=')
        if name in grid:
            raise ValueError(f'--grid has {name} twice.')
        try:
            grid[name] = [float(value) for value in values.split(',')]
        except ValueError:
            raise ValueError(
                f'--grid must be NAME=NUMBER,NUMBER,..., got {text!r}.'
            ) from None
    return grid


def define_lanes(flags: Flags) -> None:
    """--max_lanes: how many restorations run at once."""
    flags.integer(
        'max_lanes', 8, 'The most lanes at once.', at_least=1, at_most=MOST
    )


# Where a cluster tells a process its number, and how many there are.
_OF_CLUSTERS = (
    ('SLURM_PROCID', 'SLURM_NTASKS'),
    ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'),
)


def define_processes(flags: Flags) -> None:
    """The flags of a run that several processes share; see `join_processes`."""
    section = 'several processes'
    flags.string(
        'coordinator',
        None,
        '`auto` takes the next two from the cluster (Slurm, Open MPI, TPU '
        'pods); of training also HOST:PORT of process 0.',
        section=section,
    )
    flags.integer(
        'num_processes',
        None,
        'To share the work among processes: how many.',
        at_least=1,
        section=section,
    )
    flags.integer(
        'process_id',
        None,
        'With --num_processes: the number of this one, from 0.',
        at_least=0,
        section=section,
    )
    flags.integer(
        'cpu_devices',
        None,
        'Where the CPU computes: parts of it that share a batch [one a core, at '
        f'most {_MOST_CPU_DEVICES}].',
        at_least=1,
        at_most=256,
    )


def divide_cpu(asked: int | None) -> None:
    """Let JAX see the CPU as several devices, which share each batch.

    A program of one device leaves cores idle wherever a step of it runs on one
    of them; programs side by side fill these gaps (docs/performance.md). To be
    called before anything runs on a device; later it does nothing.

    Args:
        asked: how many; None for one a core, a few at most, unless the user has
            told JAX itself.
    """
    if asked is None:
        flags = os.environ.get('XLA_FLAGS', '')
        is_told = 'host_platform_device_count' in flags
        if is_told or jax.config.values['jax_num_cpu_devices'] > 0:
            return
        asked = min(_num_cores(), _MOST_CPU_DEVICES)
    try:
        jax.config.update('jax_num_cpu_devices', asked)
    except RuntimeError:
        # JAX has begun: a notebook that runs a binary, or a test.
        return


def _num_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Not on every system.
        return os.cpu_count() or 1


def join_processes(given: Given) -> tuple[int, int]:
    """The number of this process, and how many share the work; 0 and 1 alone.

    They meet in the folder of the results alone, so that one which dies does
    not take the others with it. To be called before anything runs on a device.
    """
    number, of = given.process_id, given.num_processes
    if given.coordinator is not None:
        if given.coordinator != 'auto' or (number, of) != (None, None):
            raise ValueError(
                '--coordinator must be auto, without --num_processes and '
                '--process_id; with these no coordinator is needed.'
            )
        for of_number, of_count in _OF_CLUSTERS:
            if of_number in os.environ and of_count in os.environ:
                return int(os.environ[of_number]), int(os.environ[of_count])
        jax.distributed.initialize()
        return jax.process_index(), jax.process_count()
    if (number is None) != (of is None):
        raise ValueError('--num_processes and --process_id go together.')
    if number is None:
        return 0, 1
    if number >= of:
        raise ValueError(
            f'--process_id must be below --num_processes, {of}, got {number}.'
        )
    return number, of


def join_training(given: Given) -> None:
    """Let the processes of one run of training share each batch.

    To be called before anything runs on a device.

    Raises:
        ValueError: if the flags do not say how they find each other.
    """
    number, of = given.process_id, given.num_processes
    if given.coordinator is None:
        if (number, of) != (None, None):
            raise ValueError(
                'processes that train together need --coordinator=HOST:PORT, '
                'where the one of number 0 listens, or --coordinator=auto.'
            )
        return
    if given.coordinator == 'auto':
        if (number, of) != (None, None):
            raise ValueError(
                '--coordinator=auto takes --num_processes and --process_id from '
                'the cluster; leave them out.'
            )
        jax.distributed.initialize()
        return
    if number is None or of is None or number >= of:
        raise ValueError(
            f'--coordinator={given.coordinator} needs --num_processes and a '
            f'--process_id below it, got {of} and {number}.'
        )
    jax.distributed.initialize(given.coordinator, of, number)


def load_prior(given: Given, num_lanes: int = 1):
    """The prior of the flags, ready for that many lanes at once."""
    prior = checkpoint.load_prior(
        given.prior,
        dtype=jnp.dtype(given.dtype),
        size=_size_of(given),
        label=given.label,
        **overrides_of(given),
    )
    num_classes = getattr(prior.network, 'num_classes', None)
    if num_classes is not None and given.label is None:
        raise ValueError(
            f'give --label, the class of the images, from 0 to '
            f'{num_classes - 1}, since {given.prior} tells classes apart.'
        )
    # A prepared network takes twice as long to compile, which one small image
    # does not earn back.
    pays = num_lanes * np.prod(prior.image_shape[:2]) >= 4 * 64**2
    if pays and jax.default_backend() == 'cpu' and given.dtype == 'float32':
        prior = prior.prepare()
    return prior


def input_sha256(name: str, path: str) -> str:
    """The SHA-256 of a file that a flag names; refuses one that is not there."""
    from invjax.priors import torch_file

    if not os.path.isfile(path):
        raise ValueError(f'there is no file {path}, which --{name} names.')
    return torch_file.file_sha256(path)

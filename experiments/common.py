"""What the binaries share: flags, checks, set-up, times, protocol."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

from invjax import (
    conditioners,
    images,
    metrics,
    operators,
    problem,
    tuning,
)
from invjax.diffusion import VARIANCES
from invjax.priors import checkpoint, torch_file

PRIOR = flags.DEFINE_string(
    'prior',
    'faces64',
    f'One of {", ".join(checkpoint.KNOWN_PRIORS)}, or a .pt, .pth or '
    '.safetensors file.',
)
NUM_STEPS = flags.DEFINE_string(
    'num_steps',
    '100',
    "Reverse steps: a number, 'ddim50', 'quad20', or a list such as '10,20,30'.",
)
SEED = flags.DEFINE_integer('seed', 0, 'Of everything random.', lower_bound=0)
DTYPE = flags.DEFINE_enum(
    'dtype', 'float32', ['float32', 'bfloat16'], 'Of the computation.'
)
OUT = flags.DEFINE_string('out', 'out', 'Folder for the results.')

FIRST_IMAGE = flags.DEFINE_integer(
    'first_image', 0, 'Of --images: the first one to take.', lower_bound=0
)
NUM_IMAGES = flags.DEFINE_integer(
    'num_images', 8, 'Of --images: how many to take.', lower_bound=1
)
_COORDINATOR = flags.DEFINE_string(
    'coordinator',
    None,
    'To share a sweep among processes: HOST:PORT of the first one, or `auto` '
    'where the cluster tells (Slurm, Open MPI, TPU pods).',
)
_NUM_PROCESSES = flags.DEFINE_integer(
    'num_processes', None, 'With --coordinator: how many.', lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer(
    'process_id', None, 'With --coordinator: this one, from 0.', lower_bound=0
)

# The flags that a binary has of these, by name. None: the default.
_SETTINGS = {}
_TASK_PARAMETERS = {}
_NOISE = {}


def define_task():
    """The flag of a task, and those of all tasks' parameters."""
    owners = {}
    for task in operators.OPERATORS:
        for name, kind in operators.parameters(task).items():
            owners.setdefault(name, (kind, []))[1].append(task)
    for name, (kind, tasks) in owners.items():
        _TASK_PARAMETERS[name] = _define(name, kind, f'Of {", ".join(tasks)}.')
    return flags.DEFINE_string(
        'task', 'box_inpainting', f'One of {", ".join(operators.OPERATORS)}.'
    )


def _define(name: str, kind: type, words: str):
    define = {
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }[kind]
    return define(name, None, words)


def define_noise():
    """The flags of the kind of noise; `given_noise` reads them."""
    kinds = list(problem.NOISES)
    _NOISE['noise'] = flags.DEFINE_enum(
        'noise', 'gaussian', kinds, 'Added to that of --noise_std, if another.'
    )
    words = {
        'peak': 'photons at white',
        'share': 'share of the measured values that become -1 or 1',
    }
    for kind, parameters in problem.NOISES.items():
        for name, default in parameters.items():
            _NOISE[name] = flags.DEFINE_float(
                name, None, f'Of {kind}: {words[name]}; by default {default:g}.'
            )


def given_noise() -> dict:
    """The kind of noise and its parameters; nothing where it is Gaussian.

    Raises:
        ValueError: for a parameter of another kind, or one out of its range.
    """
    given = {n: f.value for n, f in _NOISE.items() if f.value is not None}
    noise = given.pop('noise', 'gaussian')
    parameters = problem.check_noise(noise, **given)
    return {} if noise == 'gaussian' else {'noise': noise, **parameters}


def define_images():
    """The flags of several images; `read_images` reads them."""
    return flags.DEFINE_string(
        'images',
        None,
        'A folder of pictures, or FILE.npz:KEY, uint8 (N, H, W, 3).',
    )


def define_transition():
    """The flags of a reverse step, which all methods have."""
    _SETTINGS.update(
        transition=flags.DEFINE_enum(
            'transition', None, ['ddpm', 'ddim'], 'How a step is taken.'
        ),
        variance=flags.DEFINE_enum(
            'variance', None, list(VARIANCES), 'Of the ddpm step.'
        ),
        eta=flags.DEFINE_float('eta', None, 'Of the ddim step, 0 to 1.'),
        clip=flags.DEFINE_bool('clip', None, 'Clip estimates to [-1, 1].'),
    )


def define_method():
    """The flag of a method, and those of all methods' hyperparameters."""
    define_transition()
    owners = {}
    for method in conditioners.CONDITIONERS:
        for name, default in conditioners.hyperparameters(method).items():
            kind = str if isinstance(default, str) else float
            owners.setdefault(name, (kind, []))[1].append(method)
    for name, (kind, methods) in owners.items():
        _SETTINGS[name] = _define(name, kind, f'Of {", ".join(methods)}.')
    return flags.DEFINE_string(
        'method', 'dps', f'One of {", ".join(conditioners.CONDITIONERS)}.'
    )


def define_grid():
    """The flag of a grid; `parse_grid` reads it."""
    return flags.DEFINE_multi_string(
        'grid',
        [],
        'A hyperparameter and its values, as zeta=0.3,1,3. Repeat it for all '
        'combinations.',
    )


def parse_grid(texts: list[str]) -> dict[str, list[float]]:
    """Name to values, of NAME=NUMBER,NUMBER,... each."""
    grid = {}
    for text in texts:
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


def given_settings() -> dict:
    """The hyperparameters that stand on the command line."""
    return {n: f.value for n, f in _SETTINGS.items() if f.value is not None}


def given_task_parameters() -> dict:
    """The task's parameters that stand on the command line."""
    return {
        n: f.value for n, f in _TASK_PARAMETERS.items() if f.value is not None
    }


def check_settings(method: str) -> None:
    """Refuse what stands on the command line for a method, before loading."""
    numbers, choices = conditioners.split_settings(method, given_settings())
    conditioners.check_settings(method, numbers)
    conditioners.make_conditioner(method, **choices)


def make_folder(name: str) -> pathlib.Path:
    """The output folder, made now, so that a long run does not end in vain."""
    folder = pathlib.Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / '.writable'
        probe.write_text('')
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f'--out must be a folder that can be written, got {name!r} '
            f'({error.strerror}).'
        ) from None
    return folder


def input_sha256(path: str) -> str:
    """The SHA-256 of a file that a flag names; refuses one that is not there."""
    if not os.path.isfile(path):
        raise ValueError(f'there is no file {path}.')
    return torch_file.file_sha256(path)


def load_prior(num_lanes: int = 1):
    """The prior of the flags, ready for that many lanes at once; its card."""
    prior, card = checkpoint.load_prior(
        PRIOR.value, dtype=jnp.dtype(DTYPE.value)
    )
    # A prepared network takes twice as long to compile, which one small image
    # does not earn back.
    pays = num_lanes * prior.image_shape[0] ** 2 >= 4 * 64**2
    if pays and jax.default_backend() == 'cpu' and DTYPE.value == 'float32':
        prior = prior.prepare()
    return prior, card


def read_truth(path, prior) -> np.ndarray:
    """A picture in the prior's size, (H, W, 3); says what was done to it."""
    truth, done = images.read_image(path, prior.image_shape[0])
    print(done)
    return truth


def keys() -> jax.Array:
    """Three keys from the seed: the operator's, the noise's, the sampler's."""
    return jax.random.split(jax.random.key(SEED.value), 3)


def join_processes() -> tuple[int, int]:
    """The number of this process, and how many share the work; 0 and 1 alone.

    To be called before anything runs on a device.
    """
    coordinator = _COORDINATOR.value
    numbers = _NUM_PROCESSES.value, _PROCESS_ID.value
    if coordinator is None:
        if numbers != (None, None):
            raise ValueError(
                '--num_processes and --process_id need --coordinator.'
            )
        return 0, 1
    if coordinator == 'auto':
        jax.distributed.initialize()
    elif None in numbers:
        raise ValueError(
            '--coordinator needs --num_processes and --process_id.'
        )
    else:
        jax.distributed.initialize(coordinator, *numbers)
    return jax.process_index(), jax.process_count()


def read_images(
    side: int, first: int | None = None, number: int | None = None
) -> list[np.ndarray]:
    """The images of the flags, (H, W, 3) each, in the prior's size.

    Others of --images than the flags choose are had by `first` and `number`.
    """
    name = flags.FLAGS['images'].value
    if name is None:
        raise ValueError('give --images, a folder or FILE.npz:KEY.')
    first = FIRST_IMAGE.value if first is None else first
    last = first + (NUM_IMAGES.value if number is None else number)
    stem, _, array = name.partition('.npz:')
    if array:
        path = pathlib.Path(f'{stem}.npz')
        if not path.is_file():
            raise ValueError(f'there is no file {path}.')
        with np.load(path) as arrays:
            if array not in arrays:
                raise ValueError(
                    f'{path} has no {array!r}; it has {", ".join(arrays)}.'
                )
            truths = [images.to_float(x) for x in arrays[array][first:last]]
    else:
        paths = sorted(pathlib.Path(name).glob('*.[pj][np]*g'))[first:last]
        truths = [images.read_image(path, side)[0] for path in paths]
    if not truths:
        raise ValueError(f'{name} has no image number {first}.')
    if truths[0].shape[0] != side:
        raise ValueError(
            f'the images are {truths[0].shape[0]} px, the prior is for {side}.'
        )
    return truths


def measure_numbered(key, number, truth, task, noise_std) -> problem.Problem:
    """The problem of an image of a data set: its number gives it its keys."""
    key_operator, key_noise = jax.random.split(jax.random.fold_in(key, number))
    operator = operators.make_operator(
        task, key_operator, truth.shape, **given_task_parameters()
    )
    return problem.measure(
        key_noise, truth, operator, noise_std, **given_noise()
    )


@jax.jit
def _scores(x, truth, inverse_problem, distances):
    values = {
        'psnr': metrics.psnr(x, truth),
        'ssim': metrics.ssim(x, truth),
        'chi_square': tuning.chi_square(x, inverse_problem),
    }
    for lpips in distances:
        values[f'lpips_{lpips.variant}'] = lpips(x, truth)
    return values


def scores(x, truth, inverse_problem, distances=()) -> dict[str, float]:
    """What a table has of one restoration; LPIPS under its variant's name.

    Args:
        x, truth: (H, W, C) in [-1, 1].
        inverse_problem: that x solves.
        distances: `metrics.LPIPS` of each variant that is wanted.
    """
    values = _scores(x, truth, inverse_problem, tuple(distances))
    return {
        name: float(values[name])
        for name in ('psnr', 'ssim', 'chi_square', *values)
    }


def picture_of(inverse_problem: problem.Problem) -> np.ndarray:
    """The measurement as an image, (H, W, 3): itself, or what A^+ makes of it."""
    y = inverse_problem.y
    if y.shape != inverse_problem.image_shape:
        y = inverse_problem.operator.pinv(y)
    return np.asarray(y)


def make_operator(task: str, image_shape: tuple[int, int, int]):
    """The operator of a task with the parameters of the flags."""
    key_operator, _, _ = keys()
    return operators.make_operator(
        task, key_operator, image_shape, **given_task_parameters()
    )


def measure(
    truth: np.ndarray, task: str, noise_std: float, operator=None
) -> problem.Problem:
    """The problem that a task, or another operator, makes of a picture."""
    _, key_noise, _ = keys()
    if operator is None:
        operator = make_operator(task, truth.shape)
    return problem.measure(
        key_noise, truth, operator, noise_std, **given_noise()
    )


@contextlib.contextmanager
def sampling_seconds():
    """Time a block; gives a dict that it fills with two numbers of seconds.

    `compile` is the time in which programs were traced, lowered and compiled,
    or read from the cache of compiled ones; `sampling` is all the rest.
    """
    spans, seconds = [], {}

    def note(event, duration, **_):
        if event.startswith('/jax/core/compile/'):
            end = time.perf_counter()
            spans.append((end - duration, end))

    jax.monitoring.register_event_duration_secs_listener(note)
    start = time.perf_counter()
    try:
        yield seconds
    finally:
        total = time.perf_counter() - start
        jax.monitoring.unregister_event_duration_listener(note)
    # A function traced within another reports a span within the other's.
    seconds['compile'], last = 0.0, start
    for begin, end in sorted(spans):
        seconds['compile'] += max(end - max(begin, last), 0.0)
        last = max(end, last)
    seconds['sampling'] = total - seconds['compile']


class Progress:
    """A bar on a terminal, a plain line each tenth elsewhere."""

    def __init__(self, what: str):
        self._what = what
        self._start = time.perf_counter()
        self._bar = None
        self._tenth = 0

    def __call__(self, done: int, total: int) -> None:
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(total=total, desc=self._what, unit='step')
            self._bar.update(done - self._bar.n)
            if done >= total:
                self._bar.close()
        elif 10 * done // total > self._tenth:
            self._tenth = 10 * done // total
            seconds = time.perf_counter() - self._start
            left = seconds * (total - done) / done
            print(
                f'{self._what}: {done} of {total} steps, {seconds:.0f} s, '
                f'{left:.0f} s left',
                file=sys.stderr,
                flush=True,
            )


def protocol(flag_values: dict) -> dict:
    """What a result needs to be made again: flags, versions, device, time."""
    packages = ('jax', 'jaxlib', 'flax', 'numpy', 'invjax')
    return {
        'flags': flag_values,
        'versions': {
            'python': platform.python_version(),
            **{name: _version(name) for name in packages},
        },
        'device': str(jax.devices()[0].device_kind),
        'num_cpus': os.cpu_count(),
        'date': datetime.datetime.now(datetime.UTC).isoformat('T', 'seconds'),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return 'not installed'


def flag_values() -> dict:
    """Every flag of this project, name to value."""
    return {
        flag.name: flag.value
        for module, own in flags.FLAGS.flags_by_module_dict().items()
        if module.startswith(('experiments', sys.argv[0]))
        or module == '__main__'
        for flag in own
    }


def write_json(path: pathlib.Path, data: dict) -> None:
    path.write_text(json.dumps(data, indent=2, default=float) + '\n')


def run(main) -> None:
    """Run a binary: a user's mistake is one sentence and exit status 2."""

    def wrapped(argv):
        # Libraries log their progress at the level of information.
        logging.set_verbosity(logging.WARNING)
        # Compiled programs are kept, so that a second run starts at once.
        if jax.config.jax_compilation_cache_dir is None:
            cache = pathlib.Path.home() / '.cache' / 'invjax' / 'compiled'
            jax.config.update('jax_compilation_cache_dir', str(cache))
        if len(argv) > 1:
            _fail(f'arguments must be flags, got {argv[1]!r}.')
        try:
            return main()
        except (ValueError, OSError) as error:
            _fail(str(error))

    app.run(wrapped, flags_parser=_parse_flags)


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(str(error))


def _fail(sentence: str):
    print(f'error: {sentence}', file=sys.stderr)
    sys.exit(2)

"""Another Python, with packages of its own, that answers questions.

It runs one of the scripts here named `*_peer.py`. Each line of JSON on the
script's input is a question and each line on its output the answer, the first
being `"ready"`; arrays go by files, whose paths are in the questions.
"""

import contextlib
import json
import pathlib
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from invjax import huge_pages
from invjax.priors import convert

# Modules of guided-diffusion, and what `Faces64` in benchmark_peer.py calls
# them; the other `input_blocks` are `down`, counted from 0.
_FACES64 = {
    'time_embed.': 'time.',
    'input_blocks.0.0.': 'first.',
    'middle_block.': 'middle.',
    'output_blocks.': 'up.',
    'out.': 'out.',
}


@contextlib.contextmanager
def start(
    python: str,
    script: str,
    packages: str = 'torch and deepinv',
    seconds: float | None = None,
) -> Iterator[Callable[..., Any]]:
    """Start a script; gives a function from a question to its answer.

    Its environment is that which this process was given.

    Args:
        python: the path of a Python that can import the packages.
        script: the name of a file beside this one.
        packages: that it imports at its start, for a refusal.
        seconds: after which it is ended, whatever it does; None for never.

    Raises:
        ValueError: if it is no Python, lacks the packages, stops, or answers
            `{"error": sentence}`.
    """
    path = pathlib.Path(__file__).with_name(script)
    try:
        process = subprocess.Popen(
            [python, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=huge_pages.environment_without(),
        )
    except OSError as error:
        raise ValueError(
            f'--peer must be a Python, got {python!r} ({error.strerror}).'
        ) from None

    # Both are pipes, as was asked for.
    questions, answers = process.stdin, process.stdout
    assert questions is not None and answers is not None

    def ask(**question):
        # A process that has stopped cannot be written to, and says no more.
        with contextlib.suppress(BrokenPipeError):
            questions.write(json.dumps(question) + '\n')
            questions.flush()
        line = answers.readline()
        if not line:
            raise ValueError(f'{python} stopped; what it said is above.')
        answer = json.loads(line)
        if isinstance(answer, Mapping) and 'error' in answer:
            raise ValueError(answer['error'])
        return answer

    timer = threading.Timer(seconds or 0, process.kill)
    if seconds is not None:
        timer.start()
    with process:
        try:
            if answers.readline().strip() != json.dumps('ready'):
                raise ValueError(
                    f'{python} cannot import {packages}; install what is '
                    'missing there.'
                )
            yield ask
        finally:
            timer.cancel()
            with contextlib.suppress(BrokenPipeError):
                questions.close()


def state_dict(params: dict, network) -> dict[str, np.ndarray]:
    """Parameters of a UNet as PyTorch has them: the inverse of `convert`.

    Args:
        params: nested dict of arrays.
        network: the UNet that they fit.

    Returns:
        The names of guided-diffusion to float32 arrays in PyTorch's layout.
    """
    leaves = flax.traverse_util.flatten_dict(params)
    return {
        name: _to_torch(np.asarray(leaves[path], np.float32)).reshape(shape)
        for name, (path, shape) in convert.expected_leaves(network).items()
    }


def _to_torch(array: np.ndarray) -> np.ndarray:
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def faces64_name(name: str) -> str:
    """What `Faces64` calls a tensor of guided-diffusion."""
    for module, other in _FACES64.items():
        if name.startswith(module):
            return other + name.removeprefix(module)
    _, number, rest = name.split('.', 2)
    return f'down.{int(number) - 1}.{rest}'

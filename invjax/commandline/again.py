"""How a run is made again: its command line, and the same in Python."""

import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

from invjax.commandline import groups
from invjax.commandline.flags import Given

_WIDTH = 76


def command_line(binary: str, given: Given) -> str:
    """The command line of a run, but for where it writes.

    Args:
        binary: such as `restore`.
        given: its flags, of which those on the command line are taken.
    """
    parts = [f'python -m experiments.{binary}']
    for name in given.on_command_line:
        value = getattr(given, name)
        if name in ('out', 'help'):
            continue
        if isinstance(value, bool):
            parts.append(f'--{name}' if value else f'--no{name}')
        elif name == 'grid':  # It is repeated, and has commas of its own.
            parts += [shlex.quote(f'--{name}={v}') for v in value]
        else:
            values = value if isinstance(value, list | tuple) else [value]
            parts.append(shlex.quote(f'--{name}={",".join(map(str, values))}'))
    lines, line = [], parts[0]
    for part in parts[1:]:
        if len(line) + len(part) > _WIDTH:
            lines.append(line)
            line = '   '
        line += f' {part}'
    return ' \\\n'.join([*lines, line])


def restoration_in_python(
    given: Given, image_shape: tuple[int, int, int]
) -> str:
    """Lines of Python that restore as `experiments.restore` does.

    Args:
        given: its flags.
        image_shape: (H, W, C) of the prior.
    """
    imports = ['import invjax']
    dtype = ''
    if given.dtype != 'float32':
        imports.append('import jax.numpy as jnp')
        dtype = f', dtype=jnp.{given.dtype}'
    lines = [f'prior = invjax.load_prior({given.prior!r}{dtype})']
    noise = {'noise_std': given.noise_std, **groups.noise_of(given)}
    task = _operator(given, image_shape, imports, lines)
    if given.image is not None:
        lines += _of_image(given, image_shape, task, noise, imports)
    else:
        lines += _of_measurement(given, task, noise, imports)
    asked = {
        **({} if given.aim is None else {'aim': given.aim}),
        'seed': given.seed,
        'num_samples': given.num_samples,
        **({} if given.mean_of == 1 else {'mean_of': given.mean_of}),
        **({} if given.starts is None else {'starts': given.starts}),
        'max_lanes': given.max_lanes,
        **groups.settings_of(given),
    }
    arguments = ['measured', 'prior', repr(given.method)]
    if given.num_steps is not None:
        arguments.append(_steps(given.num_steps))
    lines += [
        _call('restored = invjax.restore', arguments, asked),
        "restored.save('restored.png')",
    ]
    return '\n'.join([*sorted(imports), '', *lines])


def _steps(num_steps: str) -> str:
    return num_steps if num_steps.isdecimal() else repr(num_steps)


def _call(function: str, arguments, keywords: Mapping[str, Any]) -> str:
    """A call, a line for each argument where it is long."""
    parts = [*arguments, *(f'{n}={_literal(v)}' for n, v in keywords.items())]
    short = f'{function}({", ".join(parts)})'
    if len(short) <= _WIDTH:
        return short
    return f'{function}(\n' + ''.join(f'    {p},\n' for p in parts) + ')'


def _literal(value: Any) -> str:
    if isinstance(value, float) and not np.isfinite(value):
        return f"float('{value}')"
    return repr(value)


def _operator(given, image_shape, imports, lines) -> str:
    """What the task is called in the lines: its name, or `operator`."""
    if given.mask is not None:
        imports += [
            'import jax.numpy as jnp',
            'from invjax import images',
            'from invjax.operators.mask import Mask',
        ]
        call = _call(
            'mask = images.read_mask',
            [repr(given.mask), repr(tuple(image_shape[:2]))],
            {'of': given.mask_of} if given.mask_of != 'black' else {},
        )
        lines += [
            call.replace('of=', ''),
            f'operator = Mask(jnp.asarray(mask.x), {image_shape[-1]})',
        ]
    elif given.kernel is not None:
        imports += [
            'from invjax import images',
            'from invjax.operators.blur import convolution',
        ]
        flip = ', True' if given.flip_kernel else ''
        lines += [
            f'kernel = images.read_blur_kernel({given.kernel!r}{flip}).x',
            'height, width = kernel.shape',
            _call(
                'operator = convolution',
                ['kernel', repr(tuple(image_shape))],
                {'parameters': None},
            ).replace(
                'parameters=None',
                "{'kernel_height': height, 'kernel_width': width}",
            ),
        ]
    elif given.measurement is not None:
        imports.append('from invjax import keys, operators')
        lines.append(
            _call(
                'operator = operators.make_operator',
                [
                    repr(given.task),
                    f'keys.of_operator(keys.root({given.seed}))',
                    repr(tuple(image_shape)),
                ],
                groups.task_parameters(given),
            )
        )
    else:
        return repr(given.task)
    return 'operator'


def _of_image(given, image_shape, task, noise, imports) -> list[str]:
    height, width, channels = image_shape
    parameters = {} if task == 'operator' else groups.task_parameters(given)
    keywords = {**noise, 'seed': given.seed, **parameters}
    simple = height == width and channels == 3 and not given.value_range
    lines = []
    if simple:
        truth, keywords = repr(given.image), {'size': height, **keywords}
    else:
        if 'from invjax import images' not in imports:
            imports.append('from invjax import images')
        truth = 'truth'
        lines.append(
            _call(
                'truth = images.read_picture',
                [
                    repr(given.image),
                    repr((height, width)),
                    str(channels),
                    *_value_range(given),
                ],
                {},
            )
            + '.x'
        )
    lines.append(_call('measured = invjax.measure', [truth, task], keywords))
    if task == 'operator':
        lines.append(f'measured = measured.replace(task={given.task!r})')
    return lines


def _of_measurement(given, task, noise, imports) -> list[str]:
    for line in (
        'import numpy as np',
        'from invjax import images',
        'from invjax import problem',
    ):
        if line not in imports:
            imports.append(line)
    return [
        _call(
            'reading = images.read_measurement',
            [
                repr(given.measurement),
                'operator.measurement_shape',
                'problem.is_picture(operator)',
                *(_value_range(given) or ['None']),
                'np.asarray(operator.support())',
            ],
            {},
        ),
        _call('measured = invjax.from_measurement', ['reading.x', task], noise),
        f'measured = measured.replace(task={given.task!r})',
    ]


def _value_range(given) -> list[str]:
    if not given.value_range:
        return []
    low, high = map(float, given.value_range)
    return [repr((low, high))]

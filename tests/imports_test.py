"""Imports point one way, so that a part can be read without what uses it."""

import ast
import pathlib
import subprocess
import sys

from absl.testing import absltest

_PACKAGE = pathlib.Path(__file__).parents[1] / 'invjax'
# A module may import from its own layer and from those before it.
_LAYERS = [
    {
        *('docstrings', 'hub', 'compiled', 'huge_pages'),
        *('types', 'strict_json', 'timing'),
    },
    {'settings', 'schedule', 'images', 'keys', 'phantoms'},
    {'notebook', 'metrics', 'diffusion'},
    {'operators'},
    {'problem'},
    {'consistency'},
    {'methods', 'priors'},
    {'calibration', 'sampler', 'tuning', 'uncertainty', 'measurement'},
    {'batch', 'validation'},
    {'restoration', 'evaluations'},
    {'study'},
    {'report', 'comparison', 'benchmarking', 'accelerating'},
    {'training'},
    {'commandline'},
    {'__main__'},
]


# The same within a room, where a result goes through several modules.
_ROOMS = {
    'metrics': [{'array_pickle', 'image', 'statistics'}, {'lpips'}],
    'study': [
        {'plan', 'verdict'},
        {'cells', 'summaries'},
        {'running'},
        {
            'automatic',
            'calibrating',
            'choosing',
            'evaluation',
            'sweeping',
            'sweeps',
            'tidy',
            'validating',
        },
    ],
    'report': [
        {'figures', 'drawing'},
        {'pages'},
        {'sprites'},
        {'explorer', 'methods_page', 'restored_page'},
        {
            *('benchmarks', 'comparisons', 'evaluations', 'paper'),
            *('restored', 'sweeps', 'validations'),
        },
    ],
}
# What takes long to import, and what most users do not need at once.
_LATE = (
    *('dm_pix', 'grain', 'h5py', 'huggingface_hub', 'jinja2', 'matplotlib'),
    *('optax', 'orbax', 'scipy', 'tifffile', 'invjax.report.figures'),
)
# And what the way to a first picture does without.
_LATE_IN_RESTORE = tuple(m for m in _LATE if m != 'jinja2')


def _layer(layers: list[set[str]], part: str) -> int:
    found = [i for i, layer in enumerate(layers) if part in layer]
    assert len(found) == 1, f'{part} must stand in one layer of the test.'
    return found[0]


def _imports(path: pathlib.Path) -> set[str]:
    """Full names of what a file imports of this project."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split('.')[0] == 'invjax'}


def _modules(folder: pathlib.Path) -> set[str]:
    """Names of the modules and packages of a folder."""
    return {
        path.name.removesuffix('.py')
        for path in folder.iterdir()
        if (path.suffix == '.py' or (path / '__init__.py').is_file())
        and path.name != '__init__.py'
    }


class ImportsTest(absltest.TestCase):
    def test_no_module_imports_from_a_later_layer(self):
        for path in _PACKAGE.rglob('*.py'):
            part = path.relative_to(_PACKAGE).parts[0].removesuffix('.py')
            if part == '__init__':
                continue  # It hands over what users call.
            for name in _imports(path):
                _, imported, *_ = (*name.split('.'), '')
                # The package itself, for where it lies; and what a wheel has
                # beside the library.
                if imported in ('', 'experiments'):
                    continue
                self.assertLessEqual(
                    _layer(_LAYERS, imported),
                    _layer(_LAYERS, part),
                    f'{path.name}: {name}',
                )

    def test_no_module_imports_from_a_later_layer_of_its_room(self):
        for room, layers in _ROOMS.items():
            folder = _PACKAGE / room
            for module in _modules(folder):
                for name in _imports(folder / f'{module}.py'):
                    _, of, *more = name.split('.')
                    if of == room and more and more[0] in _modules(folder):
                        self.assertLessEqual(
                            _layer(layers, more[0]),
                            _layer(layers, module),
                            f'{room}/{module}: {name}',
                        )

    def test_the_layers_name_what_there_is(self):
        self.assertEqual(set().union(*_LAYERS), _modules(_PACKAGE))
        for room, layers in _ROOMS.items():
            self.assertEqual(
                set().union(*layers), _modules(_PACKAGE / room), room
            )

    def test_what_takes_long_to_import_is_imported_where_it_is_used(self):
        script = (
            'import sys, invjax\n'
            f'print(*(m for m in {_LATE} if m in sys.modules))\n'
            'import experiments.restore\n'
            f'print(*(m for m in {_LATE_IN_RESTORE} if m in sys.modules))'
        )
        done = subprocess.run(
            [sys.executable, '-c', script],
            cwd=_PACKAGE.parent,
            capture_output=True,
            text=True,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.strip(), '')

    def test_the_product_does_not_import_torch(self):
        root = _PACKAGE.parent
        for folder in ('invjax', 'experiments'):
            for path in (root / folder).rglob('*.py'):
                if path.name.endswith('_peer.py'):
                    continue  # Runs in the peer's own environment.
                for node in ast.walk(ast.parse(path.read_text())):
                    if not isinstance(node, ast.Import | ast.ImportFrom):
                        continue
                    names = [alias.name for alias in node.names]
                    module = getattr(node, 'module', None) or ''
                    for name in [*names, module]:
                        self.assertNotEqual(name.split('.')[0], 'torch')


if __name__ == '__main__':
    absltest.main()

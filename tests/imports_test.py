"""Imports point one way, so that a part can be read without what uses it."""

import ast
import pathlib

from absl.testing import absltest

_PACKAGE = pathlib.Path(__file__).parents[1] / 'invjax'
# A module may import from its own layer and from those before it.
_LAYERS = [
    {'docstrings', 'hub', 'compiled', 'types', 'strict_json', 'timing'},
    {'settings', 'schedule', 'images', 'keys', 'phantoms'},
    {'notebook', 'metrics', 'diffusion'},
    {'operators'},
    {'problem'},
    {'consistency'},
    {'methods', 'priors'},
    {'sampler', 'tuning', 'uncertainty', 'measurement'},
    {'batch', 'validation'},
    {'restoration', 'evaluations'},
    {'study'},
    {'report', 'comparison', 'benchmarking'},
    {'training'},
    {'commandline'},
    {'__main__'},
]


def _layer(part: str) -> int:
    (index,) = [i for i, layer in enumerate(_LAYERS) if part in layer]
    return index


def _imported_parts(path: pathlib.Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == 'invjax':
            parts |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (
            node.module or ''
        ).startswith('invjax.'):
            parts.add(node.module.split('.')[1])
    return parts


class ImportsTest(absltest.TestCase):
    def test_no_module_imports_from_a_later_layer(self):
        for path in _PACKAGE.rglob('*.py'):
            part = path.relative_to(_PACKAGE).parts[0].removesuffix('.py')
            if part == '__init__':
                continue  # It hands over what users call.
            for imported in _imported_parts(path):
                self.assertLessEqual(
                    _layer(imported), _layer(part), f'{path.name}: {imported}'
                )

    def test_the_product_does_not_import_torch(self):
        root = _PACKAGE.parent
        for folder in ('invjax', 'experiments'):
            for path in (root / folder).rglob('*.py'):
                if path.name.endswith('_peer.py'):
                    continue  # Runs in the peer's own environment.
                for node in ast.walk(ast.parse(path.read_text())):
                    names = [a.name for a in getattr(node, 'names', [])]
                    module = getattr(node, 'module', None) or ''
                    for name in [*names, module]:
                        self.assertNotEqual(name.split('.')[0], 'torch')


if __name__ == '__main__':
    absltest.main()

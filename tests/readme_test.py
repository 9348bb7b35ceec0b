"""The docs: their lines of Python run, as they stand and in a notebook's cells."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

from absl.testing import absltest

from invjax import images

_ROOT = pathlib.Path(__file__).parents[1]
# In this order: extending.md goes on from the README.
_EXAMPLES = [
    example
    for name in ('README.md', 'docs/extending.md')
    for example in re.findall(
        r'```python\n(.*?)```', (_ROOT / name).read_text(), re.DOTALL
    )
]
# Runs each cell as a notebook does, and shows what the last line gives. A class
# of `__main__` that is defined anew must be the one that runs.
_NOTEBOOK = """
import ast, sys

def run_cell(text, namespace):
    body = ast.parse(text).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), '<cell>', 'exec'), namespace)
    if last is not None:
        return eval(compile(ast.Expression(last.value), '<cell>', 'eval'),
                    namespace)

import __main__
cells = sys.stdin.read().split('\\n# %%\\n')
for cell in cells:
    shown = run_cell(cell, __main__.__dict__)
    if shown is not None:
        print('HTML', len(shown._repr_html_()))
        print('TEXT', len(repr(shown)), repr(shown).count(chr(10)) + 1)
"""


def run_cells(cells, folder):
    text = '\n# %%\n'.join(cells).replace('num_steps=100', 'num_steps=2')
    return subprocess.run(
        [sys.executable, '-c', _NOTEBOOK],
        input=text.replace("'out/", f"'{folder}/"),
        cwd=_ROOT,
        env={**os.environ, 'PYTHONPATH': str(_ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


_DEFINED_ANEW = """
class Copy(invjax.Method):
    def update(self, key, x_t, state, step, problem, prior):
        _, _, info = invjax.unconditional().update(
            key, x_t, state, step, problem, prior)
        return x_t * 0 + VALUE, state, info
x = invjax.restore(measured, prior, Copy(), num_steps=100).image
print('MEAN', x.mean())
"""


class ReadmeTest(absltest.TestCase):
    """One notebook for all tests, since its network takes long to compile."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cells = [
            *(_EXAMPLES[0], 'measured', 'restored'),
            *(_DEFINED_ANEW.replace('VALUE', v) for v in ('0.25', '0.75')),
            *_EXAMPLES[1:],
        ]
        with tempfile.TemporaryDirectory() as folder:
            cls.done = run_cells(cells, folder)
            path = pathlib.Path(folder) / 'restored.png'
            cls.saved = images.read_image(path) if path.exists() else None

    def setUp(self):
        super().setUp()
        self.assertEqual(self.done.returncode, 0, self.done.stderr)

    def test_the_python_examples_run_and_show_themselves_in_a_notebook(self):
        self.assertLen(_EXAMPLES, 4)
        self.assertIn('num_steps=100', _EXAMPLES[0])
        # A restoration is five statements.
        self.assertLen(_EXAMPLES[0].strip().split('\n\n')[1].split('\n'), 6)
        x = self.saved
        self.assertEqual(getattr(x, 'x', x[0]).shape, (64, 64, 3))
        html = re.findall(r'HTML (\d+)', self.done.stdout)
        text = re.findall(r'TEXT (\d+) (\d+)', self.done.stdout)
        self.assertLen(html, 2)
        for number in html:
            self.assertGreater(int(number), 10_000)  # Two pictures at least.
        for length, lines in text:
            self.assertLess(int(length), 600)
            self.assertLessEqual(int(lines), 4)

    def test_a_method_that_is_defined_anew_in_a_notebook_runs_anew(self):
        self.assertEqual(
            re.findall(r'MEAN (\S+)', self.done.stdout), ['0.25', '0.75']
        )


if __name__ == '__main__':
    absltest.main()

"""What is installed: a wheel, in an empty environment outside of the clone."""

import configparser
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest
from absl.testing import absltest

_ROOT = pathlib.Path(__file__).parents[1]
_FACE = _ROOT / 'experiments' / 'astronaut.png'
# Three steps of a method that has no pass back: compiled in seconds.
_FLAGS = ('--task=box_inpainting', '--method=ddrm', '--num_steps=10')


def run(*command, **kwargs):
    """Run a command; its output, or a failure with its errors."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=600,
        **kwargs,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class PackagesTest(absltest.TestCase):
    def test_every_folder_of_modules_is_in_the_wheel(self):
        parser = configparser.ConfigParser()
        parser.read(_ROOT / 'setup.cfg')
        listed = parser['options']['packages'].split()
        found = {
            '.'.join(path.parent.relative_to(_ROOT).parts)
            for path in (_ROOT / 'invjax').rglob('*.py')
        }
        self.assertEqual(
            {name for name in listed if not name.endswith('checkpoints')}
            - {'invjax.data', 'invjax.experiments'},
            found,
        )


@pytest.mark.wheel
class WheelTest(absltest.TestCase):
    def test_an_installed_wheel_restores_without_the_clone(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            clean = {
                name: value
                for name, value in os.environ.items()
                if name != 'PYTHONPATH'
            }
            # What others' build tools warn of is no fault of the wheel.
            building = {**clean, 'PYTHONWARNINGS': ''}
            run(
                *(sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps'),
                *('--wheel-dir', folder, _ROOT),
                env=building,
            )
            (wheel,) = folder.glob('invjax-*.whl')
            # The libraries of this environment, but not the clone that it may
            # have as an editable installation.
            environment = folder / 'environment'
            run(sys.executable, '-m', 'venv', environment, env=building)
            site = run(
                sys.executable,
                '-c',
                "import sysconfig as s; print(s.get_path('purelib'))",
            ).strip()
            python = environment / 'bin' / 'python'
            own = run(
                python,
                '-c',
                "import sysconfig as s; print(s.get_path('purelib'))",
            ).strip()
            for entry in pathlib.Path(site).iterdir():
                is_clone = 'invjax' in entry.name or 'editable' in entry.name
                if (
                    not is_clone
                    and not (pathlib.Path(own) / entry.name).exists()
                ):
                    os.symlink(entry, pathlib.Path(own) / entry.name)
            run(
                *(python, '-m', 'pip', 'install', '--quiet', '--no-deps'),
                wheel,
                env=building,
            )
            program = environment / 'bin' / 'invjax'
            run(
                program,
                'restore',
                f'--image={_FACE}',
                '--out=out',
                *_FLAGS,
                cwd=folder,
                env=clean,
            )
            result = json.loads((folder / 'out/result.json').read_text())
            self.assertEqual(result['prior']['name'], 'faces64')
            self.assertGreater(
                result['restored'][0]['psnr'], result['measurement']['psnr']
            )
            listed = run(program, 'list', cwd=folder, env=clean)
            self.assertIn('score_ald', listed)
            self.assertIn('gaussian_deblur', listed)
            self.assertIn('faces64', listed)
            where = run(
                python,
                '-c',
                'import invjax; print(invjax.__file__, invjax.__version__)',
                cwd=folder,
                env=clean,
            )
            self.assertStartsWith(where, own)
            self.assertNotIn('unknown', where)
            self.assertTrue((pathlib.Path(own) / 'invjax/py.typed').is_file())


if __name__ == '__main__':
    absltest.main()

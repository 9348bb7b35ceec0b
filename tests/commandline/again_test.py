"""The lines of Python beside a result: they ask for what the binary did."""

import contextlib
import io
import types
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

import invjax
from experiments import restore
from invjax.commandline import again
from tests.cases.brought import DATA, SHAPE, face, problem_of

_TASK = ('--task=motion_deblur', '--noise_std=0.02', '--seed=5')
_Y = DATA / 'blur/y_circular.png'
_KERNEL = DATA / 'blur/kernel.png'


class InPythonTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ('image', (f'--image={DATA / "images/ref_rgb8.png"}',)),
        # The kernel is drawn by the seed.
        ('measurement', (f'--measurement={_Y}',)),
        ('kernel', (f'--measurement={_Y}', f'--kernel={_KERNEL}')),
    )
    def test_the_lines_have_the_problem_of_the_binary(self, arguments):
        arguments = *arguments, *_TASK
        expected, _ = problem_of(*arguments)
        given = restore.FLAGS.parse(['restore', *arguments])
        lines = again.restoration_in_python(given, SHAPE)
        self.assertIn('noise_std=0.02', lines)
        with (
            mock.patch.object(
                *(invjax, 'load_prior'),
                return_value=types.SimpleNamespace(image_shape=SHAPE),
            ),
            mock.patch.object(invjax, 'restore') as asked,
            contextlib.redirect_stdout(io.StringIO()),
        ):
            exec(lines, {})
        found = asked.call_args.args[0]
        self.assertEqual(found.task, expected.task)
        self.assertEqual(found.noise_std, expected.noise_std)
        np.testing.assert_array_equal(found.y, expected.y)
        np.testing.assert_array_equal(
            found.operator.forward(face()), expected.operator.forward(face())
        )


if __name__ == '__main__':
    absltest.main()

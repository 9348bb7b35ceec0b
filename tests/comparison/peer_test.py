"""The other Python: what is handed to it, and how it answers."""

import ast
import os
import pathlib
import resource
import sys
import tempfile
import unittest
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized

import invjax.comparison
from invjax import operators, problem
from invjax.comparison import memory, peer, remote
from invjax.priors import convert
from invjax.priors.unet import UNet

_FOLDER = pathlib.Path(invjax.comparison.__file__).parent
# Every kind of layer once, and cheap to trace.
_NETWORK = UNet(
    image_size=32,
    model_channels=32,
    channel_mult=(1, 2),
    attention_downsamplings=(2,),
    head_channels=16,
)


class StateDictTest(absltest.TestCase):
    def test_converted_weights_come_back_as_they_were(self):
        rng = np.random.default_rng(0)
        state_dict = {
            name: rng.standard_normal(shape).astype(np.float32)
            for name, (_, shape) in convert.expected_leaves(_NETWORK).items()
        }
        params, network = convert.convert(state_dict, _NETWORK)
        # The order of the keys is free; names, shapes and values are not.
        returned = peer.state_dict(params, network)
        self.assertCountEqual(returned, state_dict)
        for name, array in state_dict.items():
            np.testing.assert_array_equal(returned[name], array, err_msg=name)

    def test_every_tensor_has_a_name_of_its_own_in_the_peer(self):
        network = _NETWORK.clone(channel_mult=(1, 2, 4))
        names = convert.expected_leaves(network)
        self.assertLen({peer.faces64_name(n) for n in names}, len(names))

    def test_the_peer_counts_blocks_on_the_way_down_without_the_first(self):
        for name, expected in (
            ('input_blocks.0.0.weight', 'first.weight'),
            (
                'input_blocks.1.0.emb_layers.1.bias',
                'down.0.0.emb_layers.1.bias',
            ),
            ('input_blocks.10.1.qkv.weight', 'down.9.1.qkv.weight'),
            ('output_blocks.0.0.in_layers.2.bias', 'up.0.0.in_layers.2.bias'),
            ('time_embed.2.weight', 'time.2.weight'),
            ('out.2.weight', 'out.2.weight'),
        ):
            self.assertEqual(peer.faces64_name(name), expected)


class ScriptsTest(absltest.TestCase):
    def test_no_module_beside_them_hides_a_package_that_they_import(self):
        # Python looks for packages in the folder of a script first.
        beside = {path.stem for path in _FOLDER.iterdir()}
        meant = {'answers', 'memory', 'benchmark_peer', 'written_peer'}
        scripts = list(_FOLDER.glob('*_peer.py'))
        self.assertLen(scripts, 4)
        for path in scripts:
            for node in ast.walk(ast.parse(path.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module]
                for name in names:
                    if name.split('.')[0] not in meant:
                        self.assertNotIn(name.split('.')[0], beside)

    def test_what_runs_there_needs_no_package_of_ours(self):
        for name in ('answers', 'memory'):
            for node in ast.walk(
                ast.parse((_FOLDER / f'{name}.py').read_text())
            ):
                modules = []
                if isinstance(node, ast.Import):
                    modules = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    modules = [node.module]
                for module in modules:
                    self.assertIn(module.split('.')[0], sys.stdlib_module_names)


_SCRIPT = f"""
import os, sys
sys.path.insert(0, {str(_FOLDER)!r})
from answers import serve

def answer(question):
    print('a package that is talkative')
    if 'fail' in question:
        return {{'error': question['fail']}}
    if 'leave' in question:
        os._exit(3)
    if 'variable' in question:
        return os.environ.get(question['variable'])
    return question['number'] + 1

serve(answer)
"""


class StartTest(absltest.TestCase):
    """`peer.start` with a script that stands in for the peer's."""

    def setUp(self):
        super().setUp()
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)
        # As where most people are; with it no answer would wait in a buffer.
        environment = mock.patch.dict(os.environ)
        environment.start()
        self.addCleanup(environment.stop)
        os.environ.pop('PYTHONUNBUFFERED', None)

    def python(self, script):
        """A Python that runs this script, whatever it is asked to run."""
        (self.folder / 'script.py').write_text(script)
        path = self.folder / 'python'
        path.write_text(
            f'#!/bin/sh\nexec {sys.executable} {self.folder}/script.py\n'
        )
        path.chmod(0o755)
        return str(path)

    def test_each_question_has_its_answer_whatever_packages_print(self):
        with peer.start(self.python(_SCRIPT), 'any_peer.py') as ask:
            self.assertEqual([ask(number=n) for n in (1, 5)], [2, 6])

    def test_it_has_memory_as_it_comes(self):
        # As after `huge_pages.use`, where the variable said something else before.
        os.environ['INVJAX_HUGE_PAGES'] = 'glibc.malloc.check=0'
        os.environ['GLIBC_TUNABLES'] = 'glibc.malloc.hugetlb=1'
        with peer.start(self.python(_SCRIPT), 'any_peer.py') as ask:
            self.assertEqual(
                ask(variable='GLIBC_TUNABLES'), 'glibc.malloc.check=0'
            )

    def test_an_error_there_is_one_here(self):
        with (
            self.assertRaisesRegex(ValueError, 'not this network'),
            peer.start(self.python(_SCRIPT), 'any_peer.py') as ask,
        ):
            ask(fail='not this network')

    def test_a_peer_that_stops_is_said_to(self):
        for question in ({'leave': 1}, {'number': 1}):
            with (
                self.subTest(question),
                self.assertRaisesRegex(ValueError, 'stopped'),
                peer.start(self.python(_SCRIPT), 'any_peer.py') as ask,
            ):
                # The second question finds nobody to read it.
                with self.assertRaisesRegex(ValueError, 'stopped'):
                    ask(leave=1)
                ask(**question)

    def test_a_python_without_the_packages_is_refused(self):
        python = self.python('import a_package_that_there_is_not')
        with (
            self.assertRaisesRegex(ValueError, 'cannot import torch'),
            peer.start(python, 'any_peer.py'),
        ):
            self.fail('it started')

    def test_what_is_no_python_is_refused(self):
        with (
            self.assertRaisesRegex(ValueError, 'must be a Python, got .*none'),
            peer.start(str(self.folder / 'none'), 'any_peer.py'),
        ):
            self.fail('it started')


class OperatorArraysTest(parameterized.TestCase):
    """An operator is made of these arrays alone, by other means than ours."""

    def make(self, task, **parameters):
        operator = operators.make_operator(
            task, jax.random.key(0), (16, 16, 3), **parameters
        )
        arrays = {
            name: np.asarray(array)
            for name, array in remote.operator_arrays(operator).items()
        }
        x = np.random.default_rng(0).uniform(-1, 1, (16, 16, 3))
        return arrays, x, np.asarray(operator.forward(x.astype(np.float32)))

    def test_a_mask_multiplies(self):
        arrays, x, y = self.make('random_inpainting')
        self.assertEqual(set(np.unique(arrays['mask'])), {0, 1})
        np.testing.assert_allclose(arrays['mask'] * x, y, atol=1e-6)

    def test_a_kernel_convolves_around_its_middle(self):
        arrays, x, y = self.make('motion_deblur', blur_size=5)
        kernel = arrays['kernel']
        self.assertEqual(kernel.shape, (5, 5))
        expected = sum(
            kernel[i, j] * np.roll(x, (i - 2, j - 2), axis=(0, 1))
            for i in range(5)
            for j in range(5)
        )
        np.testing.assert_allclose(expected, y, atol=1e-5)

    @parameterized.parameters('gaussian_deblur', 'super_resolution')
    def test_two_matrices_act_on_rows_and_columns(self, task):
        arrays, x, y = self.make(task)
        rows, columns = (
            arrays[f'{axis}_left']
            @ np.diag(arrays[f'{axis}_singular'])[: len(arrays[f'{axis}_left'])]
            @ arrays[f'{axis}_right'].T
            for axis in ('rows', 'columns')
        )
        expected = np.einsum('ih,hwc,jw->ijc', rows, x, columns)
        np.testing.assert_allclose(expected, y, atol=1e-5)

    def test_others_are_refused(self):
        operator = operators.make_operator(
            'phase_retrieval', jax.random.key(0), (16, 16, 3)
        )
        with self.assertRaisesRegex(ValueError, 'cannot be handed'):
            remote.operator_arrays(operator)


class DeepinvTest(absltest.TestCase):
    """What it asks for, and that arrays go and come as they are."""

    def setUp(self):
        super().setUp()
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)
        self.asked = []
        self.other = remote.Deepinv(self.answer, self.folder)
        self.x = np.random.default_rng(0).normal(size=(16, 16, 3))
        self.measured = problem.measure(
            jax.random.key(1),
            self.x,
            operators.make_operator(
                'box_inpainting', jax.random.key(0), (16, 16, 3)
            ),
            0.25,
        )

    def answer(self, do, **question):
        """Half of what came as an array, or of y."""
        self.asked.append(do)
        if do == 'load':
            with np.load(question['weights']) as arrays:
                self.weights = dict(arrays)
            return {'versions': {'deepinv': '1.0'}}
        if 'problem' in question:
            with np.load(question['problem']) as arrays:
                self.problem = dict(arrays)
        x = self.problem['y'] if do == 'restore' else None
        for name in ('x', 'x_t'):
            if name in question:
                x = np.load(question[name])
        np.save(question['out'], x / 2)
        return {'seconds': 1.5, 'num_evaluations': 7, **question}

    def test_arrays_are_those_of_the_answers(self):
        x = self.x
        np.testing.assert_array_equal(self.other.predict(x, 9), x / 2)
        np.testing.assert_array_equal(
            self.other.measure(self.measured, x), x / 2
        )
        found = self.other.restore(self.measured, 'dps', 5, 3, {})
        np.testing.assert_array_equal(found.x, np.asarray(self.measured.y) / 2)
        self.assertEqual((found.seconds, found.num_evaluations), (1.5, 7))
        self.assertEqual(self.asked, ['predict', 'measure', 'restore'])

    def test_a_problem_has_its_measurement_noise_and_operator(self):
        self.other.measure(self.measured, self.x)
        self.assertEqual(self.problem['noise_std'], 0.25)
        np.testing.assert_array_equal(self.problem['image_shape'], [16, 16, 3])
        for name, expected in (
            ('y', self.measured.y),
            ('mask', self.measured.operator.mask),
        ):
            np.testing.assert_array_equal(self.problem[name], expected)

    def test_the_weights_go_by_the_names_of_the_peer(self):
        tensors = {
            'input_blocks.0.0.weight': np.ones(3),
            'out.2.weight': np.zeros(2),
        }
        prior = mock.Mock()
        with mock.patch.object(peer, 'state_dict', return_value=tensors):
            self.assertEqual(self.other.load(prior), {'deepinv': '1.0'})
        self.assertEqual(self.asked, ['load'])
        self.assertEqual({*self.weights}, {'first.weight', 'out.2.weight'})
        np.testing.assert_array_equal(self.weights['first.weight'], np.ones(3))


class MemoryTest(absltest.TestCase):
    @unittest.skipUnless(sys.platform == 'linux', 'reads /proc')
    def test_the_peak_is_between_what_is_held_and_what_the_system_says(self):
        pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
        held = pages * os.sysconf('SC_PAGE_SIZE')
        peak = memory.peak_bytes()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        # Counters of a processor are added up from time to time.
        slack = 2**22
        self.assertGreater(peak, held - slack)
        self.assertLess(peak, 1024 * usage.ru_maxrss + slack)


if __name__ == '__main__':
    absltest.main()

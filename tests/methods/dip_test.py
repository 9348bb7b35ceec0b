"""The untrained prior: its iterations, and where it stops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import operators, problem, schedule
from invjax.methods.dip import DIP
from tests.methods import dense

KEY = jax.random.key(0)
SHAPE = (8, 8, 1)
STEPS = schedule.reverse_steps(dense.ALPHA_BAR, 60)


def make_problem(noise_std):
    """A shaded image, from black to white, and its measurement."""
    rows, columns = np.meshgrid(*[np.linspace(-0.4, 0.4, 8)] * 2)
    x_0 = jnp.asarray(rows + columns, jnp.float32)[..., None]
    operator = operators.make_operator('denoising', KEY, SHAPE)
    return x_0, problem.measure(KEY, x_0, operator, noise_std)


@functools.partial(jax.jit, compiler_options=dense.QUICK)
def _start(method, measured):
    return method.start(KEY, measured, STEPS)


@functools.partial(jax.jit, compiler_options=dense.QUICK)
def _row(method, measured, x, state):
    # It reads no timestep.
    step = schedule.Steps(*(field[0] for field in STEPS))
    return method.update(KEY, x, state, step, measured, None)


def rows_of(number=3, measured=None, **settings):
    """Images and states before and after each of some rows, and Info."""
    if measured is None:
        _, measured = make_problem(0.2)
    method = dense.as_numbers(DIP(**settings))
    kept, infos = [_start(method, measured)], []
    for _ in range(number):
        x, state, info = _row(method, measured, *kept[-1])
        kept.append((x, state))
        infos.append(info)
    return kept, infos


def flat(weights):
    return np.concatenate([np.ravel(w) for w in jax.tree.leaves(weights)])


class IterationTest(parameterized.TestCase):
    @parameterized.parameters(0.003, 0.02)
    def test_the_first_step_of_adam_is_the_learning_rate_downhill(
        self, learning_rate
    ):
        # Bias correction makes the first step -rate g / (|g| + 1e-8), and g is
        # known by the squared residual's own differences.
        _, measured = make_problem(0.2)
        kept, _ = rows_of(
            1, learning_rate=learning_rate, iterations=1, discrepancy=0.0
        )
        before, after = (flat(state.weights) for _, state in kept)
        change = after - before
        # The 1e-8 counts for weights that hardly matter.
        self.assertLess(np.abs(change).max(), 1.001 * learning_rate)
        whole = np.abs(change) > 0.99 * learning_rate
        self.assertGreater(whole.mean(), 0.9)
        # Downhill: the network's output, from one row to the next, explains
        # the measurement better.
        kept, _ = rows_of(
            2, learning_rate=1e-3, iterations=1, average=0.0, discrepancy=0.0
        )
        (_, _), (first, _), (second, _) = kept
        self.assertLess(
            np.linalg.norm(measured.y - second),
            np.linalg.norm(measured.y - first),
        )

    def test_a_row_is_so_many_iterations(self):
        often, _ = rows_of(6, iterations=1, discrepancy=0.0)
        twice, _ = rows_of(3, iterations=2, discrepancy=0.0)
        for row in range(4):
            np.testing.assert_allclose(
                often[2 * row][0], twice[row][0], atol=1e-5
            )
            np.testing.assert_allclose(
                flat(often[2 * row][1].weights),
                flat(twice[row][1].weights),
                atol=1e-5,
            )

    @parameterized.parameters(0.5, 0.9)
    def test_the_image_is_the_average_of_the_outputs(self, average):
        # Weights do not depend on it, so that without an average the image is
        # the output itself; the first one counts twice, as what is there before.
        outputs, _ = rows_of(6, iterations=1, average=0.0, discrepancy=0.0)
        images, _ = rows_of(6, iterations=1, average=average, discrepancy=0.0)
        expected = np.asarray(outputs[0][0])
        np.testing.assert_allclose(images[0][0], expected, atol=1e-6)
        for (output, _), (image, _) in zip(
            outputs[1:], images[1:], strict=True
        ):
            expected = average * expected + (1 - average) * output
            np.testing.assert_allclose(image, expected, atol=1e-5)

    def test_info_is_how_far_the_image_moved_and_the_pull_of_y(self):
        _, measured = make_problem(0.2)
        kept, infos = rows_of(2, discrepancy=0.0)
        for row, info in enumerate(infos):
            before, after = kept[row][0], kept[row + 1][0]
            # A is the identity, so that A^T (y - A x) is the residual.
            residual = np.linalg.norm(measured.y - after)
            np.testing.assert_allclose(info.residual, residual, rtol=1e-5)
            np.testing.assert_allclose(info.guidance, residual, rtol=1e-5)
            np.testing.assert_allclose(
                info.prior_step, np.linalg.norm(after - before), rtol=1e-4
            )

    def test_the_code_is_uniform_in_a_small_range_and_stays(self):
        kept, _ = rows_of(2)
        code = np.asarray(kept[0][1].code)
        self.assertEqual(code.shape, (8, 8, 32))
        self.assertBetween(code.min(), 0, 1e-3)
        self.assertBetween(code.max(), 0.1 - 1e-3, 0.1)
        self.assertAlmostEqual(code.mean(), 0.05, delta=0.002)
        np.testing.assert_array_equal(kept[-1][1].code, code)

    def test_channels_are_those_of_the_features(self):
        _, measured = make_problem(0.2)
        for channels in (4, 7):
            _, state = jax.eval_shape(
                lambda key, channels=channels: DIP(channels=channels).start(
                    key, measured, STEPS
                ),
                KEY,
            )
            shape = state.weights['params']['_Block_0']['Dense_0']
            self.assertEqual(shape['kernel'].shape[-1], channels)


class NetworkTest(parameterized.TestCase):
    @parameterized.parameters(
        ((4, 4, 2), 1),
        ((8, 8, 1), 2),
        ((64, 64, 3), 3),
        ((6, 10, 3), 1),
        ((8, 12, 3), 2),
        ((5, 7, 3), 0),
        ((1, 1, 1), 0),
    )
    def test_it_takes_any_shape_and_halves_it_as_often_as_it_can(
        self, shape, num_halvings
    ):
        operator = operators.make_operator('denoising', KEY, shape)
        measured = problem.measure(KEY, jnp.zeros(shape), operator)
        x, state = jax.eval_shape(
            lambda key: DIP().start(key, measured, STEPS), KEY
        )
        self.assertEqual(x.shape, shape)
        names = [n for n in state.weights['params'] if n.startswith('_Block')]
        self.assertLen(names, 2 * num_halvings + 1)

    def test_a_pixel_sees_its_neighbours_and_a_constant_stays_one(self):
        # At the finest level alone: one block of 3 x 3, so that a change of the
        # code reaches its neighbours and, through the norm, all pixels alike.
        shape = (5, 7, 1)
        operator = operators.make_operator('denoising', KEY, shape)
        measured = problem.measure(KEY, jnp.zeros(shape), operator)
        _, state = _start(dense.as_numbers(DIP()), measured)

        def output(code):
            # Averaging nothing, the image after a row of no learning is the
            # output.
            method = DIP(1e-9, iterations=1, average=0.0, discrepancy=0.0)
            moved, _, _ = _row(
                dense.as_numbers(method),
                measured.replace(y=measured.y + 1),
                jnp.zeros(shape),
                state._replace(code=code),
            )
            return np.asarray(moved)[..., 0]

        flat_code = jnp.full_like(state.code, 0.05)
        constant = output(flat_code)
        np.testing.assert_allclose(constant, constant[0, 0], atol=1e-5)
        changed = output(flat_code.at[2, 3, 0].add(0.05))
        away = np.ones((5, 7), bool)
        away[1:4, 2:5] = False
        np.testing.assert_allclose(changed[away], changed[0, 0], atol=1e-5)
        self.assertGreater(
            np.abs(changed[1:4, 2:5] - changed[0, 0]).min(), 1e-4
        )


class StopTest(parameterized.TestCase):
    def test_it_stops_at_the_discrepancy_and_then_stays(self):
        for discrepancy in (1.0, 1.5):
            _, measured = make_problem(0.2)
            limit = discrepancy * 0.2 * 8  # 64 values
            _, info = dense.sample(
                DIP(iterations=3, discrepancy=discrepancy),
                measured,
                None,
                STEPS,
            )
            last = np.argmax(np.asarray(info.residual) <= limit)
            self.assertGreater(last, 0)
            np.testing.assert_array_equal(info.prior_step[last + 1 :], 0)
            self.assertTrue(np.all(info.prior_step[: last + 1] > 0))
            # One of Adam's iterations moves the average by little.
            self.assertGreater(info.residual[-1], 0.95 * limit)
            np.testing.assert_array_equal(
                info.residual[last:], info.residual[-1]
            )

    def test_where_it_stops_it_is_nearer_to_the_truth_than_what_it_fitted(self):
        x_0, measured = make_problem(0.2)
        stopped, at_stop = dense.sample(DIP(), measured, None, STEPS)
        went_on, info = dense.sample(
            DIP(discrepancy=0.0), measured, None, STEPS
        )
        self.assertLess(info.residual[-1], 0.5 * at_stop.residual[-1])
        errors = [
            np.linalg.norm(x - x_0) for x in (stopped, went_on, measured.y)
        ]
        self.assertLess(errors[0], 0.8 * errors[1])
        self.assertLess(errors[0], 0.8 * errors[2])

    def test_the_residual_falls_on_average(self):
        _, measured = make_problem(0.0)
        _, info = dense.sample(DIP(), measured, None, STEPS)
        means = np.asarray(info.residual).reshape(6, 10).mean(axis=1)
        np.testing.assert_array_less(means[1:], means[:-1])

    def test_any_differentiable_operator_will_do(self):
        x_0, _ = make_problem(0.0)
        operator = operators.Function.of(lambda x: jnp.tanh(2 * x), SHAPE)
        measured = problem.measure(KEY, x_0, operator, 0.1)
        found, info = dense.sample(DIP(), measured, None, STEPS)
        self.assertLessEqual(info.residual[-1], 0.1 * 8)
        self.assertLess(np.abs(found - x_0).mean(), 0.15)


if __name__ == '__main__':
    absltest.main()

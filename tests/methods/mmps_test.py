"""Moment matching, against the conditional mean that it approaches."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import problem, sampler, schedule
from invjax.diffusion import Transition
from invjax.methods import mmps
from invjax.methods.mmps import MMPS, matched_variance, root_times
from invjax.methods.unconditional import Unconditional
from invjax.priors import gaussian
from invjax.types import Prediction
from tests.methods import dense

_SHAPE = (4, 4, 1)


@flax.struct.dataclass
class Curved:
    """Ten sums of all pixels, bent by a sine."""

    weights: jax.Array
    image_shape: tuple = flax.struct.field(pytree_node=False, default=_SHAPE)
    measurement_shape: tuple = flax.struct.field(
        pytree_node=False, default=(10,)
    )

    def forward(self, x):
        return jnp.sin(self.weights @ x.ravel())

    def guess(self, y):
        return jnp.zeros(self.image_shape)

    def support(self):
        return jnp.ones(self.measurement_shape)

    def describe(self):
        return {'kind': 'Curved'}


@flax.struct.dataclass
class Backwards(gaussian.GaussianPrior):
    """A prior whose estimate moves against x_t, as no exact one does.

    It has one field more than its base: two dataclasses of Flax that differ in their
    class alone have structures that JAX 0.10.2 holds for equal, though not their
    hashes, and now and then it runs the program of the other.
    """

    sign: float = -1.0

    def __call__(self, x_t, t):
        alpha_bar_t = jnp.asarray(self.alpha_bar, jnp.float32)[t]
        # Of it x0_hat is sign x_t.
        eps = (1 - self.sign * jnp.sqrt(alpha_bar_t)) * x_t
        eps = eps / jnp.sqrt(1 - alpha_bar_t)
        return Prediction(eps, None)


def with_operator(case, operator, noise_std=0.3):
    """The case with another measurement, of a sample of its prior."""
    measured = problem.measure(
        jax.random.key(2),
        case.prior.sample(jax.random.key(1)),
        operator,
        jnp.float32(noise_std),
    )
    return case._replace(problem=measured)


def unclipped(**settings):
    settings = {'noising': 'transition'} | settings
    return MMPS(**settings, transition=Transition(clip=False))


def shift_of(method, case, row, x_t):
    """What the method adds to the estimate: the rest of a step is affine in it."""
    level = case.at(row)
    found, without = (
        np.ravel(dense.update(one, case, row, x_t)[0]).astype(np.float64)
        for one in (method, Unconditional(transition=method.transition))
    )
    if level.b == 1:
        return found - without
    return (found - without) * (1 - level.a) / (level.beta * np.sqrt(level.b))


def residual_of(case, row, x_t):
    """y - A x0_hat."""
    residual = case.residual(case.estimate(case.at(row).a))
    return residual.matrix @ x_t + residual.offset


def times(matrix):
    """v -> M v of images."""
    matrix = jnp.asarray(matrix, jnp.float32)
    return lambda v: (matrix @ v.ravel()).reshape(v.shape)


def loss(case, row, x_t, shift):
    """What a shift of the estimate is to make least."""
    covariance = case.posterior_covariance(case.at(row).a)
    left = residual_of(case, row, x_t) - case.matrix @ shift
    return left @ left / case.noise_std**2 + shift @ np.linalg.solve(
        covariance, shift
    )


class VarianceTest(parameterized.TestCase):
    @parameterized.product(
        kind=['random_inpainting', 'gaussian_deblur', 'super_resolution'],
        noise_std=[0.05, 0.3],
    )
    def test_it_is_that_of_the_errors_of_the_estimate(self, kind, noise_std):
        # Of many measurements of images and estimates that are apart by normal
        # errors of a known variance, on average.
        shape, variance = (16, 16, 3), 0.04
        operator = dense.operator_of(kind, shape)

        def one(key):
            of_error, of_noise, of_signs = jax.random.split(key, 3)
            x = jnp.sqrt(variance) * jax.random.normal(of_error, shape)
            measured = problem.measure(
                of_noise, x, operator, jnp.float32(noise_std)
            )
            return matched_variance(of_signs, measured, measured.y)

        found = jax.vmap(one)(jax.random.split(dense.KEY, 400))
        error = jnp.std(found) / 20
        self.assertLess(abs(jnp.mean(found) - variance), 4 * error)
        self.assertLess(error, 0.1 * variance)

    def test_of_a_mask_it_is_the_same_for_all_signs(self):
        operator = dense.operator_of('random_inpainting', (16, 16, 3))
        measured = problem.measure(
            dense.KEY, jnp.zeros((16, 16, 3)), operator, jnp.float32(0.1)
        )
        residual = measured.y + 0.5 * operator.support()
        found = [
            float(matched_variance(jax.random.key(n), measured, residual))
            for n in range(3)
        ]
        number = float(measured.num_measured())
        expected = float(jnp.sum(residual**2)) / number - 0.1**2
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_of_a_residual_below_the_noise_it_is_below_zero(self):
        operator = dense.operator_of('random_inpainting')
        measured = problem.measure(
            dense.KEY, jnp.zeros(_SHAPE), operator, jnp.float32(0.1)
        )
        found = matched_variance(dense.KEY, measured, 0 * measured.y)
        self.assertAlmostEqual(float(found), -(0.1**2), places=5)


class ShiftTest(parameterized.TestCase):
    @parameterized.product(
        noise_std=[0.1, 0.3],
        kind=['random_inpainting', 'dense', 'gaussian_deblur'],
    )
    def test_enough_iterations_are_the_conditional_mean(self, noise_std, kind):
        case = dense.case_of(kind, noise_std)
        x_t = dense.points(1)[0]
        for row in dense.ROWS:
            covariance = case.posterior_covariance(case.at(row).a)
            expected = covariance @ case.gain(covariance)
            expected = expected @ residual_of(case, row, x_t)
            found = shift_of(unclipped(iterations=8), case, row, x_t)
            np.testing.assert_allclose(
                found, expected, atol=0.02 * np.abs(expected).max()
            )

    def test_one_is_enough_where_pixels_are_alike_and_some_are_measured(self):
        case = dense.case_of('random_inpainting')
        prior = gaussian.GaussianPrior.from_covariance(
            np.zeros(_SHAPE), 0.3 * np.eye(16), dense.ALPHA_BAR
        )
        case = case._replace(
            prior=prior, mean=np.zeros(16), covariance=0.3 * np.eye(16)
        )
        x_t = dense.points(1)[0]
        for row in dense.ROWS:
            covariance = case.posterior_covariance(case.at(row).a)
            expected = covariance @ case.gain(covariance)
            expected = expected @ residual_of(case, row, x_t)
            found = shift_of(unclipped(), case, row, x_t)
            np.testing.assert_allclose(
                found, expected, atol=1e-3 * np.abs(expected).max()
            )

    @parameterized.parameters('random_inpainting', 'dense', 'gaussian_deblur')
    def test_its_length_is_the_best_one(self, kind):
        case = dense.case_of(kind, 0.1)
        x_t = dense.points(1)[0]
        for row in dense.ROWS:
            found = shift_of(unclipped(), case, row, x_t)
            least = loss(case, row, x_t, found)
            self.assertLess(least, loss(case, row, x_t, 0.9 * found))
            self.assertLess(least, loss(case, row, x_t, 1.1 * found))
            # The loss is a parabola along it, with its least value there.
            np.testing.assert_allclose(
                loss(case, row, x_t, 0.5 * found),
                loss(case, row, x_t, 1.5 * found),
                rtol=2e-2,
            )

    @parameterized.parameters('dense', 'gaussian_deblur')
    def test_each_iteration_makes_the_loss_less(self, kind):
        case = dense.case_of(kind, 0.1)
        x_t = dense.points(1)[0]
        losses = [
            loss(
                case,
                3,
                x_t,
                shift_of(unclipped(iterations=n), case, 3, x_t),
            )
            for n in (1, 2, 3)
        ]
        self.assertLess(losses[1], losses[0])
        self.assertLess(losses[2], losses[1])

    def test_a_residual_below_the_noise_asks_for_hardly_any_width(self):
        # Of r^2 next to 0 the direction is C A^T (y - A x0_hat), up to a factor.
        case = dense.case_of('gaussian_deblur')
        x_t = dense.points(1)[0]
        residual = 0.01 * residual_of(case, 5, x_t)
        covariance = case.posterior_covariance(case.at(5).a)
        expected = covariance @ case.matrix.T @ residual
        residual = jnp.asarray(residual, jnp.float32).reshape(_SHAPE)
        shift = unclipped()._shift(
            case.problem,
            residual,
            times(covariance),
            mmps._width(dense.KEY, case.problem, residual, case.row(5)),
        )
        found = np.ravel(shift.x).astype(np.float64)
        cosine = found @ expected
        cosine /= np.linalg.norm(found) * np.linalg.norm(expected)
        self.assertGreater(cosine, 0.9999)

    def test_strength_is_a_factor(self):
        case = dense.case_of('dense')
        x_t = dense.points(1)[0]
        # With fresh noise alone x_s is the sum of z, times a number, and it.
        without, one, more = (
            dense.update(unclipped(noising='mix', strength=s), case, 3, x_t)[0]
            for s in (0.0, 1.0, 1.7)
        )
        np.testing.assert_allclose(
            more - without, 1.7 * (one - without), rtol=1e-2, atol=1e-3
        )

    def test_a_direction_along_which_nothing_varies_is_left_out(self):
        case = dense.case_of('gaussian_deblur')
        case = case._replace(prior=Backwards(**vars(case.prior)))
        x_t = dense.points(1)[0]
        for iterations in (1, 2):
            found = shift_of(unclipped(iterations=iterations), case, 3, x_t)
            np.testing.assert_allclose(found, 0, atol=1e-3)

    def test_where_nothing_is_measured_there_is_none(self):
        case = dense.case_of('random_inpainting')._replace(
            problem=problem.nothing_measured(_SHAPE)
        )
        x_t = dense.points(1)[0]
        for iterations in (1, 2):
            found = shift_of(unclipped(iterations=iterations), case, 3, x_t)
            np.testing.assert_allclose(found, 0, atol=1e-4)

    def test_what_no_solver_reached_shows(self):
        case = dense.case_of('dense')
        x_t = dense.points(1)[0]
        one, more = (
            float(
                dense.update(unclipped(iterations=n), case, 3, x_t)[
                    2
                ].solver_residual
            )
            for n in (1, 3)
        )
        self.assertGreater(one, 0)
        self.assertGreaterEqual(more, one)

    def test_without_noise_it_is_finite_and_explains_what_it_can(self):
        case = dense.case_of('random_inpainting', 0.0)
        x_t = dense.points(1)[0]
        found = shift_of(unclipped(iterations=8), case, 5, x_t)
        before = residual_of(case, 5, x_t)
        left = before - case.matrix @ found
        self.assertLess(np.linalg.norm(left), 0.05 * np.linalg.norm(before))

    def test_what_is_not_linear_is_taken_by_its_derivative(self):
        case = dense.case_of('dense')
        (weights,) = jax.tree.leaves(case.problem.operator)[:1]
        case = with_operator(case, Curved(1.5 * weights))
        weights = 1.5 * np.asarray(weights, np.float64)
        x_t = dense.points(1)[0]
        for row in dense.ROWS:
            level = case.at(row)
            x0_hat = case.estimate(level.a)
            x0_hat = x0_hat.matrix @ x_t + x0_hat.offset
            angles = weights @ x0_hat
            # Of sin(W x) it is diag(cos(W x)) W.
            bent = case._replace(matrix=np.cos(angles)[:, None] * weights)
            covariance = case.posterior_covariance(level.a)
            expected = covariance @ bent.gain(covariance)
            expected = expected @ (np.asarray(case.problem.y) - np.sin(angles))
            found = shift_of(unclipped(iterations=8), case, row, x_t)
            np.testing.assert_allclose(
                found, expected, atol=0.02 * np.abs(expected).max()
            )


class RootTest(parameterized.TestCase):
    def setUp(self):
        rng = np.random.default_rng(0)
        self.basis, _ = np.linalg.qr(rng.normal(size=(16, 16)))
        self.noise = rng.normal(size=16)

    def assert_root(self, values, products, rtol):
        covariance = self.basis * values @ self.basis.T
        expected = self.basis * np.sqrt(values) @ self.basis.T @ self.noise
        noise = jnp.asarray(self.noise, jnp.float32).reshape(_SHAPE)
        found = np.ravel(root_times(times(covariance), noise, products))
        np.testing.assert_allclose(
            found, expected, atol=rtol * np.abs(expected).max()
        )

    def test_as_many_products_as_it_has_values_are_enough(self):
        values = np.repeat([0.1, 0.5, 2.0, 9.0], 4)
        self.assert_root(values, 4, 1e-3)
        with self.assertRaises(AssertionError):
            self.assert_root(values, 2, 1e-3)

    @parameterized.product(scale=[1e-4, 1.0, 1e4], products=[1, 2, 3])
    def test_of_a_projector_one_is(self, scale, products):
        # Products that nothing is left for must do no harm.
        values = scale * np.repeat([0.0, 1.0], 8)
        self.assert_root(values, products, 2e-3)

    @parameterized.parameters(1, 2, 3)
    def test_of_the_identity_it_is_the_noise(self, products):
        self.assert_root(0.3 * np.ones(16), products, 2e-3)

    @parameterized.parameters(1, 2)
    def test_where_nothing_varies_it_is_nothing(self, products):
        noise = jnp.asarray(self.noise, jnp.float32).reshape(_SHAPE)
        for matrix in np.zeros((16, 16)), -np.eye(16):
            found = root_times(times(matrix), noise, products)
            np.testing.assert_allclose(found, 0, atol=1e-5)


class SampleTest(parameterized.TestCase):
    @parameterized.parameters('random_inpainting', 'dense', 'gaussian_deblur')
    def test_four_steps_are_enough_for_the_posterior_of_a_normal_prior(
        self, kind
    ):
        case = dense.case_of(kind, 0.1)
        method = unclipped(noising='sample', iterations=8, products=8)
        steps = schedule.reverse_steps(dense.ALPHA_BAR, 4)
        keys = jax.random.split(dense.KEY, 4000)
        found = jax.lax.map(
            lambda key: sampler.sample(
                key, steps, case.problem, case.prior, method
            )[0].ravel(),
            keys,
            batch_size=500,
        )
        found = np.asarray(found, np.float64)
        gain = case.gain(case.covariance)
        covariance = case.covariance - (
            case.covariance @ gain @ case.matrix @ case.covariance
        )
        mean = case.mean + case.covariance @ gain @ (
            case.y - case.matrix @ case.mean
        )
        # Whitened, they are standard normal.
        root = np.linalg.cholesky(covariance)
        white = np.linalg.solve(root, (found - mean).T).T
        error = 1 / np.sqrt(len(white))
        np.testing.assert_allclose(white.mean(0), 0, atol=5 * error)
        # Of variances and of covariances, of which there are 120.
        wrong = np.cov(white.T) - np.eye(16)
        self.assertLess(np.abs(np.diag(wrong)).max(), 5 * np.sqrt(2) * error)
        self.assertLess(
            np.abs(wrong - np.diag(np.diag(wrong))).max(), 5 * error
        )

    def test_a_draw_has_no_more_power_than_a_picture(self):
        # Of a prior that claims a variance of 100, at the noisiest step.
        case = dense.case_of('random_inpainting')
        wide = gaussian.GaussianPrior.from_covariance(
            np.zeros(_SHAPE), 100 * np.eye(16), dense.ALPHA_BAR
        )
        case = case._replace(
            prior=wide, problem=problem.nothing_measured(_SHAPE)
        )
        x_t = dense.points(1)[0]
        found, without = (
            np.ravel(dense.update(method, case, 1, x_t)[0])
            for method in (
                unclipped(noising='sample'),
                Unconditional(
                    transition=Transition(clip=False, variance='posterior')
                ),
            )
        )
        level = case.at(1)
        weight = level.beta * np.sqrt(level.b) / (1 - level.a)
        power = np.mean(((found - without) / weight) ** 2)
        np.testing.assert_allclose(power, 1 - level.a, rtol=0.02)


class StepTest(absltest.TestCase):
    def assert_drawn_from(self, method, step):
        """Hold x_s over many keys against a step from the corrected estimate."""
        case = dense.case_of('random_inpainting')
        x_t = dense.points(1)[0]
        level = case.at(3)
        estimate = case.estimate(level.a)
        x_0 = estimate.matrix @ x_t + estimate.offset
        x_0 = x_0 + shift_of(unclipped(), case, 3, x_t)
        corrected = dense.Affine(np.zeros((16, 16)), x_0)
        expected = step(corrected, case.x_t, level)
        found = np.stack(
            [
                np.ravel(dense.update(method, case, 3, x_t, key)[0])
                for key in jax.random.split(dense.KEY, 400)
            ]
        )
        mean = expected.matrix @ x_t + expected.offset
        std = np.sqrt(np.diag(expected.covariance))
        self.assertLess(np.max(np.abs(found.mean(0) - mean) / std), 5 / 20)
        np.testing.assert_allclose(found.std(0), std, rtol=0.2)

    def test_that_of_the_transition_is_from_the_corrected_estimate(self):
        self.assert_drawn_from(unclipped(), dense.ancestral)

    def test_mixed_noise_goes_on_the_corrected_estimate(self):
        # Zhu et al. (2023), Algorithm 1, lines 5 and 6.
        self.assert_drawn_from(
            unclipped(noising='mix', mix=0.3, strength=1.0),
            lambda x_0, x_t, level: dense.renoised(x_0, x_t, level, 0.3),
        )

    def test_it_goes_on_from_the_clipped_estimate(self):
        # With next to no noise what is measured is known, wherever the estimate
        # was: far out of range it must not lag behind by what was clipped.
        case = dense.case_of('random_inpainting', 1e-3)
        x_t = 4 * dense.points(1)[0]
        estimate = case.estimate(case.at(5).a)
        x_0 = estimate.matrix @ x_t + estimate.offset
        seen = np.ravel(case.problem.operator.support()) > 0
        self.assertGreater(np.abs(x_0[seen]).max(), 1.2)
        exact = MMPS(iterations=8, noising='transition')
        found = np.ravel(dense.update(exact, case, 5, x_t)[0])
        np.testing.assert_allclose(
            found[seen],
            np.clip(np.ravel(case.problem.y)[seen], -1, 1),
            atol=0.02,
        )

    def test_the_last_step_is_not_stretched(self):
        case = dense.case_of('random_inpainting', 0.1)
        x_t = dense.points(1)[0]
        one, more = (
            dense.update(unclipped(noising='mix', strength=s), case, 5, x_t)[0]
            for s in (1.0, 1.7)
        )
        np.testing.assert_array_equal(one, more)

    def test_it_is_clipped(self):
        case = dense.case_of('gaussian_deblur')
        x_t = 3 * dense.points(1)[0]
        for noising in ('transition', 'mix'):
            clipping = MMPS(noising=noising)
            found, _, _ = dense.update(clipping, case, 5, x_t)
            free, _, _ = dense.update(unclipped(noising=noising), case, 5, x_t)
            self.assertGreater(np.abs(free).max(), 1.2)
            self.assertLessEqual(np.abs(found).max(), 1)


if __name__ == '__main__':
    absltest.main()

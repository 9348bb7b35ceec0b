"""The embedded prior of drawn slices, on slices that it has not seen."""

import hashlib
import pathlib

import flax.traverse_util
import jax
import numpy as np
from absl.testing import absltest

import invjax
from invjax import metrics, phantoms
from invjax.priors import checkpoint
from invjax.training import evaluation


class Phantoms64Test(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.prior = invjax.load_prior('phantoms64')

    def test_it_is_grey_and_small(self):
        self.assertEqual(self.prior.image_shape, (64, 64, 1))
        folder = pathlib.Path(checkpoint._embedded('phantoms64'))
        size = sum(p.stat().st_size for p in folder.rglob('*') if p.is_file())
        self.assertLess(size, 10e6)

    def test_it_denoises_as_its_card_says(self):
        told = self.prior.card['held_out_loss']
        x = phantoms.draw(1, 16, first=2000, side=64)
        found = evaluation.by_level(self.prior, x)
        self.assertEqual(list(found.t), told['t'])
        # Of 16 slices in place of 200: they differ by a third of the error.
        ratio = np.array(found.error) / told['error']
        np.testing.assert_allclose(ratio, 1, atol=0.35)

    def test_it_fills_in_what_is_missing(self):
        truth = phantoms.draw(1, 1, first=7, side=64)[0]
        measured = invjax.measure(truth, 'random_inpainting')
        restored = invjax.restore(
            measured, self.prior, 'wiener', num_steps='quad10'
        )
        before = float(metrics.psnr(measured.as_picture(), truth))
        after = float(metrics.psnr(restored.samples[0], truth))
        self.assertGreater(after, 22)
        self.assertGreater(after, before + 10)

    def test_it_is_kept_in_half_precision(self):
        for leaf in jax.tree.leaves(self.prior.params):
            np.testing.assert_array_equal(leaf, np.float16(leaf))

    def test_its_name_stands_for_these_parameters(self):
        half = jax.tree.map(np.float16, self.prior.params)
        digest = hashlib.sha256()
        for name, leaf in sorted(
            flax.traverse_util.flatten_dict(half, sep='/').items()
        ):
            digest.update(name.encode() + leaf.tobytes())
        self.assertEqual(self.prior.card['sha256'], digest.hexdigest())
        known = checkpoint.KNOWN_PRIORS['phantoms64']
        self.assertEqual(known.sha256, digest.hexdigest())


if __name__ == '__main__':
    absltest.main()

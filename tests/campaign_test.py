"""A small campaign: damaged inputs of each kind are right or refused."""

from absl.testing import absltest

from tests import campaign, damage


class CampaignTest(absltest.TestCase):
    def test_two_hundred_inputs_are_right_or_refused(self):
        inputs = campaign.plan(200)
        self.assertEqual({name for name, _ in inputs}, {*damage.KINDS})
        rows = [*campaign.try_inputs(inputs, seed=1)]
        faults = [row for row in rows if row[2] not in ('right', 'refused')]
        self.assertEmpty(faults)
        # Neither everything is refused nor is everything passed.
        outcomes = [outcome for _, _, outcome, _ in rows]
        self.assertGreater(outcomes.count('right'), 10)
        self.assertGreater(outcomes.count('refused'), 100)

    def test_the_same_seed_tries_the_same_inputs(self):
        inputs = [('mask', i) for i in range(20)]
        first = [*campaign.try_inputs(inputs, seed=2)]
        # But for the folder, which sentences may name.
        again = [*campaign.try_inputs(inputs, seed=2)]
        self.assertEqual([row[:3] for row in first], [row[:3] for row in again])

    def test_a_wrong_answer_would_be_seen(self):
        kind = damage.KINDS['mask']
        blind = kind._replace(judge=lambda path, folder: 'not right')
        row = campaign.report(
            [('mask', 0, 'wrong', blind.judge(None, None))], {}, {}, 60
        )
        self.assertIn('- wrong: mask, number 0: not right', row)


if __name__ == '__main__':
    absltest.main()

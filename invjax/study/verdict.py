"""The paper's two claims about methods, decided by paired differences.

Section 6 says that ScoreALD does best once it is tuned, and that DPS is the
safest choice where nothing is tuned. Both are turned into a number for each
image, whose mean is compared with its standard error: beyond two standard
errors a claim is confirmed or refuted, within them it is undecided.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from invjax import metrics

_NUM_STANDARD_ERRORS = 2.0


class Verdict(NamedTuple):
    """A claim's outcome.

    Attributes:
        word: 'confirmed', 'refuted' or 'undecided'.
        difference: over images, in the metric's unit; above 0 speaks for the
            claim.
        rival: the method that was compared with.
    """

    word: str
    difference: metrics.Estimate
    rival: str


def best_when_tuned(scores: Mapping[str, np.ndarray], method: str) -> Verdict:
    """Whether a method does best when each has its best setting.

    Settings and the strongest rival are chosen on the images of even number and
    compared on those of odd number, so that no choice is judged by the images
    that it was made on.

    Args:
        scores: method to (S, N), settings by images, higher is better; the
            images are the same for all methods, S is each method's own.
        method: the one that the claim is about.
    """
    chosen = {}
    for name, values in scores.items():
        means = np.asarray(values)[:, ::2].mean(axis=1)
        setting = int(np.argmax(means))
        chosen[name] = means[setting], np.asarray(values)[setting, 1::2]
    rival = max((n for n in chosen if n != method), key=lambda n: chosen[n][0])
    return _verdict(chosen[method][1] - chosen[rival][1], rival)


def safest_untuned(scores: Mapping[str, np.ndarray], method: str) -> Verdict:
    """Whether a method loses least by an unlucky setting.

    A method's risk on an image is what its worst setting loses against the best
    setting of any method. The rival is the other method of the least mean risk.

    Args:
        scores: see `best_when_tuned`.
        method: the one that the claim is about.
    """
    best = np.max(
        [np.max(values, axis=0) for values in scores.values()], axis=0
    )
    risks = {n: best - np.min(values, axis=0) for n, values in scores.items()}
    rival = min(
        (n for n in risks if n != method), key=lambda n: risks[n].mean()
    )
    return _verdict(risks[rival] - risks[method], rival)


def _verdict(differences: np.ndarray, rival: str) -> Verdict:
    estimate = metrics.mean_and_standard_error(differences)
    bound = _NUM_STANDARD_ERRORS * estimate.standard_error
    if estimate.mean > bound:
        word = 'confirmed'
    elif estimate.mean < -bound:
        word = 'refuted'
    else:
        word = 'undecided'
    return Verdict(word, estimate, rival)

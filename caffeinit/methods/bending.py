"""One rate where scales change the function, through layers such as LRN, or sums, so that one step would undo the other.

The scales are found on the first batch before all else, and the pass over all pictures gives the channels deviations
of these sizes, and makes responses uncorrelated that promise to be. What is left to the second step then is small as a
rule, and made up for on the first batch; where it is not, all pictures are seen again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from caffeinit.methods.between import spread_of
from caffeinit.methods.correction import Trust
from caffeinit.methods.relaxed import Relaxed
from caffeinit.methods.restoring import Normalizer, Thorough, scale_targets
from caffeinit.methods.rounds import approach, iterate
from caffeinit.methods.telling import learns
from caffeinit.methods.within import normalize
from caffeinit.methods.work import Done, Phases, Training, left_alone
from caffeinit.result import UnitReport

Scales = Mapping[str, np.ndarray]
# What the scales found on the first batch have to reach: the rest is done after the pass over all pictures.
_ROUGH_LIMIT, _ROUGH_ROUNDS = 0.1, 4


def bend(work: Training, relaxed: Relaxed, both: Phases) -> Done:
    """Draw, normalise and give one rate where scales change the function, so that one undoes the other."""
    network, chosen = work.network, work.chosen
    as_found = _look_first(work)
    relaxed = work.relaxed(relaxed.probe, relaxed)
    restored = partial(work.why_unrestored, relaxed)
    # What is normalised on the first pictures alone is so again after each round.
    anew = Normalizer(network, work.first, restored, work.beta)
    restorer = work.keeper(relaxed, least=0) if work.samplers else anew
    given, before = approach(relaxed, limit=_ROUGH_LIMIT, rounds=_ROUGH_ROUNDS, restorer=restorer)
    left = left_alone(network, as_found, chosen)
    reports, peak = work.normalized(targets=scale_targets(work.beta, given), chosen=restored, progress=both.first)
    pairs = zip(network.units, reports, as_found, strict=True)
    reports = [earlier if relaxed.why_unrestored(unit) else report for unit, report, earlier in pairs]
    left = left_alone(network, reports, chosen) | left

    def normalize_again(scales: Scales) -> None:
        targets = scale_targets(work.beta, {key: given[key] + logs for key, logs in scales.items()})
        work.normalized(targets=targets, chosen=restored)

    thorough = Thorough(work.keeper(relaxed), normalize_again)
    found = iterate(relaxed, restorer=thorough, progress=both.second)
    learned = [unit for unit in network.units if learns(unit)]
    done = Done(relaxed, reports, peak, left, found, relaxed.held, relaxed.too_far, True, thorough.was_needed)
    if relaxed.is_lost(spread_of(found.after, learned), spread_of(before, learned)):
        done = _unbent(work, relaxed, left)
    done.found.before = before
    for report, earlier in zip(done.reports, as_found, strict=True):
        report.before = earlier.before
    return done


def _unbent(work: Training, relaxed: Relaxed, left: Mapping[str, int]) -> Done:
    """Normalise once more, and scale by what keeps the function alone: what changes it has led away from one rate."""
    reports, peak = work.normalized()
    found = iterate(relaxed, rounds=1)
    return Done(
        relaxed, reports, peak, {**left, **left_alone(work.network, reports, work.chosen)}, found, None, None, True
    )


def _look_first(work: Training) -> list[UnitReport]:
    """Draw what is to be drawn, and normalise; return what the units put out at first."""
    if work.samplers:
        # Responses are made uncorrelated when the scales are found, on which they depend.
        return work.drawn(refined=False)[0]
    ones = scale_targets(work.beta, {unit.key: np.zeros(1) for unit in work.network.units}, Trust.SAMPLE)
    return normalize(work.network, work.first, chosen=work.chosen, targets=ones)[0]

"""The jobs that users run on a network: init and rescale. They change it in place and return what they did."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from os import PathLike
from typing import Any

from caffeinit.calibration import given_calibration, needed_inputs, no_unit
from caffeinit.errors import OptionError, WeightsError
from caffeinit.footprint import Work, bounded
from caffeinit.graph.units import Unit
from caffeinit.methods.outcome import Outcome
from caffeinit.methods.preserving import MODES as PRESERVING
from caffeinit.methods.preserving import compared, rescale_preserving
from caffeinit.methods.redraw import Drawing, draw_network, drawing_memory, holding_reason, keeping_reason, select
from caffeinit.methods.responses import refiners
from caffeinit.methods.training import keeps_function, prepare_training
from caffeinit.methods.within import check_beta, normalize
from caffeinit.model.network import BARE, Network
from caffeinit.patterns import check_matched, one_or_more
from caffeinit.result import NO_SPREAD, Result
from caffeinit.statistics.rate_options import Pictures, RateOptions

Progress = Callable[[int, int], None]
MODES = (*PRESERVING, "normalize")
NOT_CHOSEN = "not among the chosen layers"
BETA = 0.1  # mean of channels, as a share of their deviation


def init(
    network: Network,
    images: Any,
    *,
    method: str | Mapping[str, str] = "gaussian",
    beta: float | None = None,
    seed: int = 0,
    layers: Sequence[str] | None = None,
    normalized: bool = True,
    balanced: bool = True,
    per_channel_rates: bool = False,
    rate_batches: int | None = None,
    memory_limit: int | None = None,
    temp_dir: str | PathLike[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> Result:
    """Draw all weights, make the channels of every unit alike on the pictures, and give all units one rate of change.

    The channels of one unit then have one standard deviation, and beta times that as their mean; without balancing the
    deviation is 1.

    Layers that have no weights yet are drawn whether they are chosen or not: no net is written with zeros in it.

    Args:
        images: what `read_images` returned, or float32 batches: arrays (N, ...) or dicts input -> array.
        method: how weights are drawn; for all layers, or shell pattern -> method. The last pattern that matches counts, and
            "*" where no other does.
        beta: 0.1 by default; only where it is normalised.
        layers: shell patterns of the layers to draw and normalise, each of which must match; all by default.
        normalized: False leaves the weights as drawn.
        balanced: False leaves the rates of the units as they come.
        per_channel_rates: at the end make the rates of each unit's columns equal, instead of its channels' deviations.
        rate_batches: rates are measured on so many batches; on 16 pictures by default.
        memory_limit: bytes that the process is to stay below, by putting values into a temporary file; None for no limit.
        temp_dir: folder for that file; None for the system's.
    Raises:
        CaffeinitError: nothing can be done, or a result is not finite; the network must not be saved then.
    """
    if beta is not None and not normalized:
        raise OptionError("without normalising, means stay as they come, and there is no use for --beta")
    check_beta(BETA if beta is None else beta)
    layers = None if layers is None else one_or_more(layers)
    chosen = _choose(network, layers)
    calibration = given_calibration(network, images)
    drawn = drawn_by_init(network, layers)
    reason = _training_reasons(network, chosen, drawn)
    rates = _rate_options(balanced and normalized, per_channel_rates, rate_batches)
    work = _training_work(network, drawn, method, calibration, rates, reason, memory_limit)
    with bounded(network, calibration, work, memory_limit, temp_dir):
        drawing = draw_network(network, lambda name: name in drawn, method, seed, calibration.num_images)
        if normalized:
            found = _train(network, calibration, reason, beta, drawing, rates, progress)
        else:
            found = Outcome(
                *normalize(
                    network,
                    calibration,
                    chosen=reason,
                    samplers=drawing.samplers,
                    turners=refiners(drawing.uncorrelated),
                    correct=False,
                    progress=progress,
                )
            )
    network.missing = [key for key in network.missing if key[0] not in drawn]
    return _result(network, calibration, found, drawing)


def rescale(
    network: Network,
    images: Any,
    *,
    mode: str = "preserve",
    beta: float | None = None,
    seed: int = 0,
    layers: Sequence[str] | None = None,
    reinit: Sequence[str] = (),
    method: str | Mapping[str, str] = "gaussian",
    balanced: bool = True,
    per_channel_rates: bool = False,
    rate_batches: int | None = None,
    rewrite_lrn: bool = False,
    powers_of_two: bool = False,
    memory_limit: int | None = None,
    temp_dir: str | PathLike[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> Result:
    """Rescale the weights that a network has, by what the pictures do in it.

    Args:
        mode: "preserve" makes the free channels of each unit alike and gives the units one rate, as far as the net's
            function allows, which is kept; "equalize" gives free channels standard deviation 1, "balance" the units one
            rate, "fp16" channels head-room in half precision by powers of two, and all three keep the function, too.
            "normalize" does what `init` does after drawing; the function changes. Layers that the weights file lacked are
            drawn first then, and so are those that `reinit` names; the other modes draw nothing.
        beta: mean that mode normalize gives, as a share of the deviation, 0.1 by default; the other modes set no means.
        layers: shell patterns of the layers to rescale, each of which must match; all by default.
        reinit: shell patterns of layers to draw again, each of which must match.
        images, method, balanced, per_channel_rates, rate_batches, memory_limit, temp_dir: as for `init`.
        powers_of_two: in the modes that keep the function, round all scales to powers of two: in single precision, no
            bit of the outputs moves.
        rewrite_lrn: in the modes that keep the function, let alpha of LRN layers make up for the scale of what they read;
            a Caffe net has to be saved, too, then: `network.save(weights, net_path=net)`. ONNX models have it within.
    Raises:
        CaffeinitError: as for `init`.
    """
    _check_mode(mode, beta, balanced, per_channel_rates, rewrite_lrn, powers_of_two)
    check_beta(BETA if beta is None else beta)
    layers, reinit = None if layers is None else one_or_more(layers), one_or_more(reinit)
    chosen = _choose(network, layers)
    if mode in PRESERVING:
        _check_nothing_drawn(network, mode, reinit)
    check_matched("--reinit", reinit, network.params)
    drawn = drawn_by_rescale(network, mode, reinit)
    has_rates = mode in ("preserve", "balance", "normalize")
    why_none = "rates are left as they come" if has_rates else f"mode {mode} uses no rates"
    rates = _rate_options(balanced and has_rates, per_channel_rates, rate_batches, why_none)
    if rewrite_lrn:
        network.open_numbers()
    calibration = given_calibration(network, images)
    if mode in PRESERVING:
        reason = _preserving_reasons(network, chosen)
        work = _preserving_work(network, calibration, mode, rates)
        with bounded(network, calibration, work, memory_limit, temp_dir):
            found = rescale_preserving(network, calibration, reason, mode, rates, rewrite_lrn, powers_of_two, progress)
        return _result(network, calibration, found, Drawing())
    reason = _training_reasons(network, chosen | drawn, drawn)
    work = _training_work(network, drawn, method, calibration, rates, reason, memory_limit)
    with bounded(network, calibration, work, memory_limit, temp_dir):
        drawing = draw_network(network, lambda name: name in drawn, method, seed, calibration.num_images)
        found = _train(network, calibration, reason, beta, drawing, rates, progress)
    network.missing = [key for key in network.missing if key[0] not in drawn]
    return _result(network, calibration, found, drawing)


def _check_mode(
    mode: str, beta: float | None, balanced: bool, per_channel: bool, rewrite_lrn: bool, powers_of_two: bool
) -> None:
    """Refuse options that a mode has no use for."""
    if mode not in MODES:
        raise OptionError(f'there is no mode "{mode}"; modes: {", ".join(MODES)}')
    if per_channel and (mode not in ("preserve", "normalize") or not balanced):
        raise OptionError("rates per channel are for modes preserve and normalize, with balancing")
    if mode == "balance" and not balanced:
        raise OptionError("mode balance does nothing but balance, and so cannot do with --no-balance")
    for given, option in ((rewrite_lrn, "--rewrite-lrn"), (powers_of_two, "--powers-of-two")):
        if given and mode not in PRESERVING:
            raise OptionError(f"mode {mode} does not keep the function, and so has no use for {option}")
    if beta is not None and mode in PRESERVING:
        raise OptionError(f"mode {mode} keeps the function, and so sets no means and has no use for --beta")


def drawn_by_init(network: Network, layers: Sequence[str] | None) -> set[str]:
    """Return the layers that `init` draws, given those that are chosen by shell patterns."""
    return select(network, layers) | {layer for layer, _ in network.missing}


def drawn_by_rescale(network: Network, mode: str, reinit: Sequence[str]) -> set[str]:
    """Return the layers that `rescale` draws: none where the function is kept."""
    if mode in PRESERVING:
        return set()
    return set(network.unset) | select(network, reinit)


def _check_nothing_drawn(network: Network, mode: str, reinit: Sequence[str]) -> None:
    """Refuse to keep the function of a net that layers are to be drawn for."""
    keeps = f"mode {mode} keeps the function, and so cannot draw layers"
    if reinit:
        raise OptionError(f"--reinit {','.join(reinit)}: {keeps}; --mode normalize can")
    if network.is_bare:
        raise WeightsError(f"{BARE}, before they are rescaled")
    if unset := network.unset:
        names = ", ".join(sorted(unset))
        raise WeightsError(f"the weights file holds no numbers for {names}; {keeps}: --mode normalize can")


def _preserving_work(network: Network, calibration: Any, mode: str, rates: RateOptions) -> Work:
    """Return what a job that keeps the function will take memory for."""
    num_pictures = rates.num_pictures(calibration) if mode in ("balance", "preserve") and rates.balanced else 0
    return Work(forward=compared(network, needed_inputs(network)), compares=True, rate_pictures=num_pictures)


def _training_work(
    network: Network,
    drawn: Collection[str],
    method: str | Mapping[str, str],
    calibration: Any,
    rates: RateOptions,
    reason: Callable[[Unit], str],
    memory_limit: int | None,
) -> Work:
    """Return what a job that draws these layers and then normalises will take memory for, if that is bounded."""
    patches, most, libraries = drawing_memory(network, lambda name: name in drawn, method, calibration.num_images)
    num_pictures = rates.num_pictures(calibration) if rates.balanced else 0
    # Where giving one rate has changed the function, the units' outputs are measured again.
    changes = num_pictures and memory_limit is not None and not keeps_function(network, reason)
    forward = () if changes else None
    return Work(True, forward, rate_pictures=num_pictures, patches=patches, drawn=most, libraries=libraries)


def _rate_options(
    balanced: bool, per_channel: bool, batches: int | None, why_none: str = "rates are left as they come"
) -> RateOptions:
    if batches is not None and batches < 1:
        raise OptionError(f"rate_batches is {batches}: rates are measured on one batch at least")
    if not balanced and (per_channel or batches is not None):
        option = "--per-channel-rates" if per_channel else "--rate-batches"
        raise OptionError(f"{why_none}, so that there is no use for {option}")
    return RateOptions(balanced, per_channel, batches)


def _choose(network: Network, layers: Sequence[str] | None) -> set[str]:
    if not network.units:
        raise no_unit(network)
    check_matched("--layers", layers or (), network.params)
    return select(network, layers)


def _preserving_reasons(network: Network, chosen: set[str]) -> Callable[[Unit], str]:
    """Return what tells why a unit is to be left alone where the function is kept; empty if it is not."""
    return lambda unit: holding_reason(unit, network.learned) if unit.layer in chosen else NOT_CHOSEN


def _training_reasons(network: Network, chosen: set[str], drawn: set[str]) -> Callable[[Unit], str]:
    """Return what tells why a unit is to be left alone where a net is made ready to be trained; empty if it is not."""

    def reason(unit: Unit) -> str:
        kept = keeping_reason(unit, network.learned, unit.layer in drawn)
        return kept.get(unit.name, "") if unit.layer in chosen else NOT_CHOSEN

    return reason


def _train(
    network: Network,
    calibration: Pictures,
    reason: Callable[[Unit], str],
    beta: float | None,
    drawing: Drawing,
    rates: RateOptions,
    progress: Progress,
) -> Outcome:
    return prepare_training(
        network,
        calibration,
        beta=BETA if beta is None else beta,
        chosen=reason,
        samplers=drawing.samplers,
        uncorrelated=drawing.uncorrelated,
        rates=rates,
        progress=progress,
    )


def _result(network: Network, calibration: Any, found: Outcome, drawing: Drawing) -> Result:
    reports = found.units
    for report in reports:
        method = drawing.told(report.name)
        if method and report.kind == "affine":
            report.done = f"drawn ({method})" + (f", {report.done}" if report.done else "")
            report.notes = drawing.notes.get(report.name, [])
        elif report.name in drawing.begun and not report.done:
            report.done = "set to what it starts from"
    notes = [*network.notes, *calibration.notes, *found.notes]
    notes += [f"{r.name}: {note}" for r in reports for note in r.notes]
    if drawing.unreached:
        names = ", ".join(dict.fromkeys(drawing.unreached))
        notes.append(f"drawn as their fillers say, for they cannot run: {names}")
    dead = [r.name for r in reports if r.dead]
    if dead:
        notes.append(
            f"dead channels, which do not vary on these pictures and have no deviation to set: {', '.join(dead)}"
        )
    if reports and all(len(r.dead) == r.num_channels for r in reports):
        notes.append("no channel of any unit varies on these pictures: they tell no scale; give pictures that differ")
    spreads = found.spreads or (math.nan, math.nan)
    return Result(
        reports,
        list(network.skipped),
        network.apart,
        notes,
        calibration.num_images,
        found.peak_bytes,
        *spreads,
        no_spread=NO_SPREAD if found.spreads and any(map(math.isnan, found.spreads)) else "",
        outputs_moved=found.outputs_moved,
    )

"""Pages for a browser: what a run did, with pictures, in one HTML file that needs nothing else.

Nothing in a page differs from run to run: no date, no machine, no duration.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

from caffeinit.arguments import check_type
from caffeinit.measuring import Measurement
from caffeinit.model.network import Network
from caffeinit.report.content import About
from caffeinit.report.run_page import run_page
from caffeinit.result import Result
from caffeinit.storage.files import replacing

__all__ = ["About", "write_report"]


def write_report(
    path: str | PathLike[str],
    network: Network,
    found: Result | Measurement | Sequence[Measurement],
    *,
    about: About | None = None,
    force: bool = False,
) -> None:
    """Write the page of a run.

    Args:
        network: the net as the run left it; where two were measured, the first.
        found: what `init`, `rescale` or `measure` returned; two measurements of one net are laid side by side.
        about: files and options, for the summary.
    Raises:
        OutputError: the file exists and `force` is not set, or cannot be written.
    """
    if isinstance(found, list | tuple):
        for one in found or [None]:
            check_type("what was found", one, Measurement, "measurements, as caffeinit.measure returns them")
    else:
        check_type("what was found", found, (Result, Measurement), "what init, rescale or measure returned")
    several = [found] if isinstance(found, Measurement) else found
    text = run_page(network, several, about or About())
    with replacing(path, force) as temporary:
        temporary.write_text(text, encoding="utf-8")

"""--report: what the command line tells the page of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from caffeinit.report import About

# What says where something goes or how fast it is done, and nothing about the result.
_NOT_TOLD = {"output", "force", "dry_run", "quiet", "json_file", "filters", "report", "other"}
_NOT_TOLD |= {"threads", "memory_limit", "temp_dir"}


def about_run(files: Mapping[str, str | None], pictures: str) -> About:
    """Return what a page tells of the command that is running.

    Args:
        files: role -> path, or None where there is no such file.
        pictures: what the calibration says of itself.
    """
    from caffeinit.report import About

    context = click.get_current_context()
    given: dict[str, str] = {}
    left: dict[str, str] = {}
    for option in context.command.params:
        name = option.name or ""
        if not isinstance(option, click.Option) or name in _NOT_TOLD or name not in context.params:
            continue
        is_given = context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
        (given if is_given else left)[max(option.opts, key=len)] = _shown(option, context.params[name])
    told = {role: path for role, path in files.items() if path is not None}
    return About(context.command.name or "", told, given, {k: v for k, v in left.items() if v}, pictures)


def _shown(option: click.Option, value: Any) -> str:
    """Return an option's value as it is typed; nothing for a flag, or where there is none."""
    if value is None or option.is_flag:
        return ""
    return " ".join(map(str, value)) if option.multiple else str(value)

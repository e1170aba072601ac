"""The errors that a user's file or option can cause.

The command line prints a `CaffeinitError` without traceback and exits with its code: 2 for an `OptionError`, where the
command has to be typed otherwise, and 1 for the others, where a file or a result is refused. Anything else that escapes
is our mistake. A message tells where, what was found against what was expected, and what to do about it.
"""

from typing import ClassVar


class CaffeinitError(Exception):
    """A file, option or net that caffeinit refuses, with the reason in words a user understands."""

    exit_code: ClassVar[int] = 1


class FormatError(CaffeinitError):
    """A file is not what it should be: truncated, foreign, corrupt, or of an unsupported kind."""


class LayerError(CaffeinitError):
    """A layer asks for something that cannot be done faithfully; the message starts with the layer's name and type."""


class WeightsError(CaffeinitError):
    """The weights do not fit the net, or hold values that cannot be used."""


class GradientError(CaffeinitError):
    """A gradient is asked through an operator that has none.

    Attributes:
        node: the ONNX node, where it is known.
        why: the message without the name of the operator.
    """

    def __init__(self, message: str, node: object = None, why: str = "") -> None:
        super().__init__(message)
        self.node = node
        self.why = why


class ImagesError(CaffeinitError):
    """The calibration pictures cannot be read or do not fit the net's inputs."""


class OptionError(CaffeinitError):
    """An option or argument that makes no sense, or does not fit the net, the machine or another option."""

    exit_code = 2


class UnmatchedError(OptionError):
    """A pattern of an option matches no layer of the net."""


class OutputError(CaffeinitError):
    """An output exists already or cannot be written."""

"""The command line. Verbs are imported when they are used, so that `caffeinit --help` answers at once."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

import click

from caffeinit.cli.terminal import say

# Verb -> its line in the list; the module of the same name holds the command.
VERBS = {
    "init": "Draw all weights of a net, then normalise them on pictures.",
    "rescale": "Rescale the channels of given weights, from what pictures do in the net.",
    "inspect": "Show layers, shapes, parameters, and what can be rescaled.",
    "measure": "Measure what every layer does on pictures, and how fast it would learn.",
    "verify": "Tell whether two weight files are the same function, on pictures.",
    "upgrade": "Write a net or weights of 2013 or 2014 in today's form.",
    "convert": "Write a net with its weights as an ONNX file, checked and run once.",
    "batch": "Run one job on all models in a folder, and again only on what is missing.",
    "demo": "Try it out: a small real net and real pictures, nothing needed.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported only when one is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of a user's work."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a verb's command."""
        if cmd_name not in VERBS:
            near = difflib.get_close_matches(cmd_name, VERBS, n=1)
            hint = f' Did you mean "{near[0]}"?' if near else f" There are: {', '.join(VERBS)}."
            ctx.fail(f'There is no verb "{cmd_name}".{hint}')
        module = importlib.import_module(f"caffeinit.cli.{cmd_name}_verb")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs without importing any."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="caffeinit")
def group() -> None:
    """Rescale the weights of Caffe nets and ONNX models from what calibration pictures do in them.

    \b
    caffeinit demo
    caffeinit init net.prototxt --images pictures/ -o net.caffemodel
    caffeinit rescale net.prototxt net.caffemodel --images pictures/ --mode normalize
    caffeinit rescale model.onnx --images pictures/

    Each verb explains itself: caffeinit VERB --help
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits 0 done, 1 refused or failed, 2 wrong usage."""
    from caffeinit.errors import CaffeinitError

    try:
        code = group.main(arguments and list(arguments), prog_name="caffeinit", standalone_mode=False)
    except CaffeinitError as error:
        say(f"error: {error}", err=True)
        code = error.exit_code
    except click.exceptions.Abort:
        say("stopped; nothing was written", err=True)
        code = 1
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        say(f"error: {error.format_message()}{_where_help_is(error)}", err=True)
        code = error.exit_code
    except MemoryError as error:
        say(f"error: the memory does not suffice, nothing was written: {error}", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _where_help_is(error: click.ClickException) -> str:
    """Return a line that tells how to see what a verb takes, where one was typed otherwise."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"\nWhat there is to type: {context.command_path} --help" if context else ""

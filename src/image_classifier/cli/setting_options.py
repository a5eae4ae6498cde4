"""Options derived from the declared settings, and help that lists them by topic.

Not cloup, which does the same: its import takes 45 ms, a quarter of a server's start.
"""

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from image_classifier.environment import configure_libraries
from image_classifier.errors import ImageClassifierError, SettingError
from image_classifier.settings import SETTINGS, Group, Setting, Settings, load_settings, service_links
from image_classifier.steps import write_failure
from image_classifier.text import one_line


class SettingOption(click.Option):
    """The option of a setting."""

    def __init__(self, setting: Setting) -> None:
        default = f"  [default: {setting.shown_default}]" if setting.shown_default else ""
        super().__init__(
            [setting.option, setting.name], default=None, metavar=setting.metavar, help=setting.help + default
        )
        self.topic = str(setting.group)


class SettingsCommand(click.Command):
    """A command whose help lists its options by the topics of the settings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        def topic(parameter: click.Parameter) -> str:
            return getattr(parameter, "topic", "Options")

        parameters = sorted(self.get_params(ctx), key=lambda each: _TOPICS.index(topic(each)))
        for name, each in groupby(parameters, topic):
            records = [record for parameter in each if (record := parameter.get_help_record(ctx))]
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


_TOPICS = ["Options", *Group]


def settings_command(*settings: Group | str) -> Callable[[Callable[..., Any]], SettingsCommand]:
    """Make a function a command with an option for each setting of the given groups and names.

    The function gets the checked Settings first, then its other options and arguments.
    """
    names = [name for name, setting in SETTINGS.items() if name in settings or setting.group in settings]

    def decorate(function: Callable[..., Any]) -> SettingsCommand:
        @click.pass_context
        def callback(ctx: click.Context, /, **values: Any) -> Any:
            options = {name: values.pop(name) for name in names}
            return function(_start(options, ctx.obj), **values)

        # click's decorators leave the parameters of a function in this attribute, in reverse.
        own = reversed(getattr(function, "__click_params__", []))
        return SettingsCommand(
            function.__name__,
            params=[*own, *(SettingOption(SETTINGS[name]) for name in names), _debug_option()],
            callback=callback,
            help=function.__doc__,
        )

    return decorate


def _debug_option() -> click.Option:
    """The option --debug of the whole program, after the name of a command; in the help of the program only."""

    def set_debug(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:  # noqa: ARG001
        if value:
            ctx.find_root().params["debug"] = True

    return click.Option(["--debug"], is_flag=True, expose_value=False, is_eager=True, hidden=True, callback=set_debug)


def _start(options: Mapping[str, object], params: Mapping[str, object]) -> Settings:
    """Load the settings, and configure the libraries of this process before they are imported."""
    for variable, value in service_links(os.environ).items():
        click.echo(
            f"ignored {variable}={value}, which Kubernetes sets for a Service of that name; enableServiceLinks: false "
            "in the pod prevents it",
            err=True,
        )
    try:
        Path.cwd()
    except FileNotFoundError:
        raise SettingError("the current folder was deleted; change to another one") from None
    settings = load_settings(options, os.environ, params)
    configure_libraries(settings.home / "cache" / "libraries")
    return settings


class Commands(click.Group):
    """Commands in sections, in the order of the chain.

    Every error becomes one line and exit status 1; --debug shows its traceback.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Iterable[click.Command]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = {title: list(commands) for title, commands in sections.items()}
        for commands in self._sections.values():
            for command in commands:
                self.add_command(command)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        width = max(map(len, self.commands))
        for title, commands in self._sections.items():
            with formatter.section(title):
                # The names of all sections have one width.
                formatter.write_dl(
                    [(f"{command.name:{width}}", command.get_short_help_str(limit=200)) for command in commands]
                )

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, click.ClickException):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:  # nobody reads the output any more
                raise
            shown = str(error)
            if not isinstance(error, ImageClassifierError):
                kind, text = type(error).__name__, one_line(error, most=1_000)
                shown = f"{ctx.invoked_subcommand} failed unexpectedly: {kind}{f': {text}' if text != kind else ''}"
            try:
                write_failure(os.environ, shown)
            except OSError as also:
                click.echo(f"warning: cannot write the results of the step: {also}", err=True)
            if ctx.params.get("debug"):
                raise
            if not isinstance(error, ImageClassifierError):
                shown += "; --debug shows where"
            click.echo(f"error: {shown}", err=True)
            ctx.exit(1)

"""How flags look in --help: without the `<bool>` that typer sets behind each of them."""

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


def _plain(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


class PlainCommand(TyperCommand):
    """A command."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its parameters, --help among them."""
        return _plain(super().get_params(ctx))


class PlainGroup(TyperGroup):
    """A command of commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its parameters, --help among them."""
        return _plain(super().get_params(ctx))


def show_plain(app: typer.Typer) -> None:
    """Makes all commands of `app`, and those below it, show their flags so."""
    app.info.cls = PlainGroup
    for command in app.registered_commands:
        command.cls = PlainCommand
    for group in app.registered_groups:
        if group.typer_instance is not None:
            show_plain(group.typer_instance)

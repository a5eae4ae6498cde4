"""Where the values of settings come from: command line options, the environment, workload params."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from image_classifier.errors import SettingError
from image_classifier.settings.declarations import CHAIN_PARAMS, SETTINGS, Setting, Settings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://[^/]+:\d+")

Values = TypeVar("Values", bound="DataclassInstance")


def load_settings(
    options: Mapping[str, object], environment: Mapping[str, str], params: Mapping[str, object] | None = None
) -> Settings:
    """Read every setting: its option wins, then its environment variables, then its workload param, then its default.

    An empty value counts as not given, because an unset Tekton param arrives as an empty string, and so does a service
    link. Raises SettingError for a value that cannot be used, and for an option or param that is not a setting.
    """
    params = {name: value for name, value in (params or {}).items() if name not in CHAIN_PARAMS}
    _check_names(options, "option")
    _check_names(params, "workload param")
    values = {}
    for setting in SETTINGS.values():
        for value, origin in _given(setting, options, environment, params):
            if value is not None and value != "":
                values[setting.name] = setting.parse(value, origin)
                break
    return Settings(**values)


def service_links(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of settings that Kubernetes set, with their values: links to a Service of the same name.

    For a Service `image-classifier` every container of its namespace gets IMAGE_CLASSIFIER_PORT=tcp://10.0.0.1:80. See
    https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
    """
    variables = [variable for setting in SETTINGS.values() for variable in setting.variables]
    return {name: environment[name] for name in variables if _SERVICE_LINK.fullmatch(environment.get(name, ""))}


def pick(settings: Settings, kind: type[Values], **others: Any) -> Values:
    """Make a room's dataclass: fields with the name of a setting take its value, and `others` provide the rest."""
    taken = {
        field.name: getattr(settings, field.name)
        for field in fields(kind)
        if field.init and field.name in SETTINGS and field.name not in others
    }
    return kind(**taken, **others)


def as_environment(settings: Settings, names: Iterable[str]) -> dict[str, str]:
    """Environment variables that give the named settings to another process.

    Not as options, which every user of the machine can read in the process list.
    """
    return {SETTINGS[name].variables[0]: str(getattr(settings, name)) for name in names}


def _given(
    setting: Setting, options: Mapping[str, object], environment: Mapping[str, str], params: Mapping[str, object]
) -> Iterable[tuple[object, str]]:
    yield options.get(setting.name), setting.option
    for variable in setting.variables:
        value = environment.get(variable, "")
        yield "" if _SERVICE_LINK.fullmatch(value) else value, f"environment variable {variable}"
    yield params.get(setting.name), "workload param"


def _check_names(names: Iterable[str], what: str) -> None:
    unknown = sorted(set(names) - set(SETTINGS))
    if unknown:
        raise SettingError(f"unknown {what} {unknown[0]!r}; known are: {', '.join(sorted(SETTINGS))}")

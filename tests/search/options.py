"""Options of a search on the digits, and trials with known times."""

import datetime
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from image_classifier.datasets import DataRequest
from image_classifier.registry import RegistryOptions
from image_classifier.search import SearchOptions
from image_classifier.settings import Recipe, Settings, pick
from image_classifier.training import Plan

START = datetime.datetime(2024, 1, 1)


def options_for(home: Path, **changes: Any) -> SearchOptions:
    settings = Settings(home=home)
    values: dict[str, Any] = {
        "request": pick(settings, DataRequest),
        "plan": Plan(0.5, 0, settings.validation_fraction, Recipe(), threads=1),
        "registry": pick(settings, RegistryOptions),
        "storage": f"sqlite:///{home / 'tuning.db'}",
        "study": "digits",
        "tune_budget": 60.0,
        "tune_workers": 1,
    }
    return SearchOptions(**values | changes)


def ended_trial(
    state: TrialState,
    value: float | None = None,
    *,
    start: float = 0.0,
    seconds: float = 0.0,
    values: dict[int, float] | None = None,
    **attributes: object,
) -> FrozenTrial:
    """A trial that ran for some seconds; times are seconds since START."""
    return FrozenTrial(
        number=0,
        trial_id=0,
        state=state,
        value=value,
        datetime_start=START + datetime.timedelta(seconds=start),
        datetime_complete=START + datetime.timedelta(seconds=start + seconds),
        params={},
        distributions={},
        user_attrs={"recipe": "", "seed": 0, "loss": 1.0, "images": 100, **attributes},
        system_attrs={},
        intermediate_values=values or {},
    )

"""Floor 0: what users configure as values: checked where they are given, frozen, plain data in files."""

import math
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from numbers import Real
from typing import Any

from fastbp._checks import whole


class Settings:
    """Base of the frozen dataclasses that users configure: optimizers, schedules, penalties."""

    def _check(self, setting: str, fits: Callable[[Any], bool], wanted: str) -> None:
        """Refuse a setting that isn't a real number or doesn't fit; NumPy's numbers become plain ones."""
        value = getattr(self, setting)
        if isinstance(value, bool) or not isinstance(value, Real) or not fits(value):
            raise self._refusal(setting, wanted)
        object.__setattr__(self, setting, float(value))

    def _check_whole(self, setting: str, least: int = 1) -> None:
        """Refuse a setting that isn't a whole number of at least `least`."""
        object.__setattr__(self, setting, whole(f"{type(self).__name__}: {setting}", getattr(self, setting), least))

    def _refusal(self, setting: str, wanted: str) -> ValueError:
        return ValueError(f"{type(self).__name__}: {setting} must be {wanted}, got {getattr(self, setting)!r}")

    def _fields(self) -> list[Field[Any]]:
        return [field for field in fields(self) if field.init]  # type: ignore[arg-type]

    def settings(self) -> dict[str, Any]:
        """The settings by name, settings of their own kind as dicts."""
        values = {field.name: getattr(self, field.name) for field in self._fields()}
        return {name: v.config() if isinstance(v, Settings) else v for name, v in values.items()}

    @property
    def name(self) -> str:
        """The name in its table."""
        return type(self).__name__

    def config(self) -> dict[str, Any]:
        """The object as plain data, for files."""
        return {"name": self.name, **self.settings()}

    def __repr__(self) -> str:
        """The call that makes it: settings without a default, and those that differ from theirs."""
        shown = [
            f"{field.name}={getattr(self, field.name)!r}"
            for place, field in enumerate(self._fields())
            if place == 0 or field.default is MISSING or field.default != getattr(self, field.name)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def is_positive(value: Any) -> bool:
    """Whether a number is above 0 and finite."""
    return bool(0 < value < math.inf)


def is_not_negative(value: Any) -> bool:
    """Whether a number is at least 0 and finite."""
    return bool(0 <= value < math.inf)


def is_fraction(value: Any) -> bool:
    """Whether a number is in [0, 1)."""
    return bool(0 <= value < 1)


POSITIVE, NOT_NEGATIVE, FRACTION = "a positive number", "a number of at least 0", "in [0, 1)"

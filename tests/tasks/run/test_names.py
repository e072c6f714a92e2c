"""Flow runs are named after what they work on."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from infra.settings import Settings
from tasks.run import names


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        (names.run_name, {"settings": Settings(name="birds")}, "birds"),
        (names.checkpoint_name, {"checkpoint": None}, "champion"),
        (names.checkpoint_name, {"checkpoint": "birds-1-2"}, "birds-1-2"),
        (names.comparison_name, {"checkpoints": ["b"], "version": None}, "champion and b"),
        (names.comparison_name, {"checkpoints": ["a", "b"], "version": None}, "a and b"),
        (names.comparison_name, {"checkpoints": None, "version": "v-1"}, "models on v-1"),
        (names.rollback_name, {"to": "a"}, "to a"),
        (names.rollback_name, {"to": None}, "to the champion before"),
        (names.gc_name, {"dry_run": True}, "list garbage"),
    ],
)
def test_a_flow_run_has_the_name_of_its_subject(
    monkeypatch: pytest.MonkeyPatch,
    name: Callable[[], str],
    parameters: dict[str, Any],
    expected: str,
) -> None:
    monkeypatch.setattr(names, "flow_run", SimpleNamespace(parameters=parameters))
    assert name() == expected

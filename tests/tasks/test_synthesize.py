"""Whose attention is recorded: the prompt's own noun phrases, or a text of class names alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from infra.settings import Settings
from tasks.run.progress import Report
from tasks.synthesize import names_of, phrases_of, synthesize_rows

ROWS = pd.DataFrame(
    {
        "prompt": ["a photo of a small red automobile and a tree on sand", "a picture of grass"],
        "classes": [["car", "tree"], []],
        "phrases": [["small red automobile", "tree"], []],
        "background": ["sand", "grass"],
        "seed": [1, 2],
    }
)


def made(attention: str) -> dict[str, Any]:
    generator = {"num_inference_steps": 2, "attention": attention, "device": "cpu"}
    with Report("synthesize", "0", len(ROWS)) as report:
        return synthesize_rows(ROWS, Settings(generator=generator), 3, report)


def test_names_are_those_of_the_classes_and_phrases_those_of_the_prompt() -> None:
    row = ROWS.iloc[0].to_dict()
    vocabulary = Settings().load_vocabulary()
    assert phrases_of(row, vocabulary) == ["small red automobile", "tree", "sand"]
    assert names_of(row, vocabulary) == ["car", "tree", "sand"]


@pytest.fixture(scope="module")
def phrases() -> dict[str, Any]:
    return made("phrases")


def test_the_attention_of_names_is_another_of_the_same_pictures(phrases: dict[str, Any]) -> None:
    names = made("names")
    np.testing.assert_array_equal(names["image"], phrases["image"])
    for field in ("cross", "attention"):
        assert names[field].shape == phrases[field].shape == (2, 3, 16, 16)
        assert (names[field][0] > 0).all() and not np.allclose(
            names[field][0], phrases[field][0], rtol=0.01
        )
        assert (names[field][1, 0] > 0).all() and (
            names[field][1, 1:] == 0
        ).all()  # the background's alone

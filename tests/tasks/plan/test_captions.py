from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from infra.settings import Settings, SettingsError
from infra.vocabulary import Vocabulary, has_word
from tasks.plan.captions import read_captions, sort_captions
from tasks.plan.prompts import PlanError
from tasks.plan.rows import make_plan
from tasks.plan.tokens import load_tokenizer
from tasks.synthesize import phrases_of

CAR = "a red car parked on wet sand by the harbour"


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines), "utf-8")
    return str(path)


def settings_of(captions: str, **plan: Any) -> Settings:
    return Settings(seed=5, plan={"images": 300, "captions": captions, **plan})


def planned(settings: Settings) -> pd.DataFrame:
    return make_plan(settings, settings.load_vocabulary())


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Settings().load_vocabulary()


def test_a_caption_becomes_a_prompt_of_the_class_that_it_names(vocabulary: Vocabulary) -> None:
    captions = sort_captions([CAR, "An automobile in the desert", "two trees in fog"], vocabulary)
    assert captions.prompts == {
        "car": [(f"photo of {CAR}", "car"), ("photo of An automobile in the desert", "automobile")],
        "tree": [("photo of two trees in fog", "trees")],
    }
    assert captions.rejected == {}


@pytest.mark.parametrize(
    ("caption", "why"),
    [
        ("a quiet harbour at dawn", "names no class"),
        ("a carpet on the floor", "names no class"),
        ("a car under a tree", "names several classes"),
        ("what a lovely and very old car", "names its class after word 5"),
        ("a car " + "very " * 49, "longer than 50 words"),
        ("a car, stock photo", "holds a word that is unwanted"),
        ("a car - cartoon", "holds a word that is unwanted"),
        ("a car (blurred)", "holds a word that is unwanted"),
    ],
)
def test_a_caption_against_the_rules_is_counted_by_its_reason(
    caption: str, why: str, vocabulary: Vocabulary
) -> None:
    captions = sort_captions([CAR, caption, CAR], vocabulary)
    assert captions.rejected == {why: 1}
    assert len(captions.prompts["car"]) == 2


def test_a_word_that_its_class_avoids_leaves_a_caption_out(vocabulary: Vocabulary) -> None:
    car = vocabulary.classes[0].model_copy(update={"avoid": ("harbour",)})
    assert car.name == "car"
    shy = vocabulary.model_copy(update={"classes": (car, *vocabulary.classes[1:])})
    assert sort_captions([CAR], shy).prompts == {}


def test_a_caption_longer_than_the_tokenizer_takes_is_left_out(vocabulary: Vocabulary) -> None:
    count_tokens, max_tokens = load_tokenizer("embedded")
    captions = sort_captions(
        ["a car on sand", "a car on " + "quite " * 30 + "wet sand"],
        vocabulary,
        count_tokens,
        max_tokens,
    )
    assert [prompt for prompt, _ in captions.prompts["car"]] == ["photo of a car on sand"]
    assert captions.rejected == {"longer than the generator's tokenizer takes": 1}


def test_a_file_s_lines_are_read_once_each_and_blank_ones_not(tmp_path: Path) -> None:
    assert read_captions(write(tmp_path / "c.txt", CAR, "", "  a   tree ", CAR)) == [CAR, "a tree"]


def test_the_share_of_captions_is_met_and_no_other_row_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "c.txt", CAR, "a tall tree in fog")
    without = planned(Settings(seed=5, plan={"images": 300}))
    with_them = planned(settings_of(path))
    from_file = with_them["background"] == ""
    able = (with_them["kind"] == "single") & with_them["classes"].map(
        lambda names: names[:1] in (["car"], ["tree"])
    )
    assert set(with_them.loc[from_file, "prompt"]) == {
        f"photo of {CAR}",
        "photo of a tall tree in fog",
    }
    assert able[from_file].all() and from_file.sum() / able.sum() == pytest.approx(0.5, abs=0.2)
    pd.testing.assert_frame_equal(with_them[~from_file], without[~from_file])
    assert with_them["classes"].tolist() == without["classes"].tolist()


def test_all_rows_of_a_class_have_captions_if_wished_and_their_words_stand_in_them(
    tmp_path: Path,
) -> None:
    settings = settings_of(write(tmp_path / "c.txt", CAR), captioned=1.0)
    rows = planned(settings)
    cars = rows[rows["classes"].map(lambda names: names == ["car"])]
    assert set(cars["prompt"]) == {f"photo of {CAR}"}
    assert phrases_of(cars.iloc[0].to_dict(), settings.load_vocabulary()) == [
        "car"
    ]  # the background is unknown
    assert all(
        has_word(prompt, phrase[0])
        for prompt, phrase in zip(cars["prompt"], cars["phrases"], strict=True)
    )


def test_other_captions_are_another_run_and_a_moved_file_is_not(tmp_path: Path) -> None:
    here = settings_of(write(tmp_path / "c.txt", CAR))
    identity = here.identity
    assert settings_of(write(tmp_path / "moved.txt", CAR)).identity == identity
    write(tmp_path / "c.txt", CAR, "a tree")
    assert here.identity != identity


def test_a_missing_or_empty_file_is_an_error_that_names_the_field(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"cannot read plan.captions .*none.txt"):
        read_captions(str(tmp_path / "none.txt"))
    with pytest.raises(SettingsError, match=r"cannot read plan.captions .*none.txt"):
        _ = settings_of(str(tmp_path / "none.txt")).identity
    (tmp_path / "latin.txt").write_bytes("an old café car".encode("latin-1"))
    with pytest.raises(PlanError, match=r"latin.txt.*UTF-8"):
        read_captions(str(tmp_path / "latin.txt"))
    with pytest.raises(PlanError, match="holds no caption"):
        read_captions(write(tmp_path / "empty.txt", "", " "))


def test_the_same_seed_gives_the_same_captions(tmp_path: Path) -> None:
    path = write(tmp_path / "c.txt", *(f"a car number {n}" for n in range(50)))
    first = planned(settings_of(path))
    again = planned(settings_of(path))
    pd.testing.assert_frame_equal(first, again)
    assert first.loc[first["background"] == "", "prompt"].nunique() > 5
    assert np.array_equal(first["seed"], again["seed"])

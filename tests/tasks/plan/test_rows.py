import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from infra.settings import Settings, SettingsError
from infra.store import Store
from infra.vocabulary import Vocabulary, VocabularyError, has_word
from models.embedded import world
from models.embedded.architecture import MAX_TOKENS, build_tokenizer
from tasks.plan.rows import PlanError, make_plan, start_run
from tasks.plan.tokens import load_tokenizer

PLAN = "runs/nightly/plan.parquet"


def settings_of(**sections: Any) -> Settings:
    return Settings(
        seed=5, plan={"images": 400, "shard_size": 64} | sections.pop("plan", {}), **sections
    )


def plan(**sections: Any) -> pd.DataFrame:
    settings = settings_of(**sections)
    return make_plan(settings, settings.load_vocabulary())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def test_every_row_is_named_and_none_twice() -> None:
    table = plan(compose={"images": 20})
    assert table["row"].tolist() == list(range(420))
    assert table["id"].tolist()[:2] == ["00000000", "00000001"]
    assert table["seed"].nunique() == 420
    assert table["seed"].between(0, 2**63 - 1).all()
    assert {"row", "seed", "shard"} == {name for name in table if table[name].dtype == np.int64}


def test_the_shares_of_the_settings_are_met_exactly() -> None:
    kinds = plan(plan={"multi": 0.3, "negatives": 0.1}, compose={"images": 20})[
        "kind"
    ].value_counts()
    assert kinds.to_dict() == {"single": 240, "multi": 120, "negative": 40, "composed": 20}


@pytest.mark.parametrize("images", [1, 2, 3, 5])
def test_few_images_are_shared_out_without_remainder(images: int) -> None:
    assert len(plan(plan={"images": images, "multi": 0.5, "negatives": 0.5})) == images


def test_each_noun_phrase_stands_in_its_prompt_whole_and_ends_with_a_word_of_its_class() -> None:
    settings = settings_of(compose={"images": 20})
    words_of = {entry.name: entry.words for entry in settings.load_vocabulary().classes}
    for row in make_plan(settings, settings.load_vocabulary()).itertuples():
        assert len(row.phrases) == len(row.classes) == len(set(row.classes))
        for name, phrase in zip(row.classes, row.phrases, strict=True):
            assert phrase.endswith(words_of[name])
            assert has_word(row.prompt, phrase)


def test_a_noun_phrase_holds_the_adjectives_of_its_noun() -> None:
    table = plan(plan={"multi": 0, "negatives": 0})
    described = table[table["phrases"].str[0].str.contains(" ")]
    assert len(described) > len(table) / 3
    after = [
        prompt.split(f" {phrase[0]} ")[0].split()[-1]
        for prompt, phrase in described[["prompt", "phrases"]].values
    ]
    assert set(after) <= {"a", "an"}


def test_a_prompt_names_no_class_but_its_own() -> None:
    vocabulary = settings_of().load_vocabulary()
    for row in plan().itertuples():
        named = {
            entry.name
            for entry in vocabulary.classes
            if any(has_word(row.prompt, w) for w in entry.words)
        }
        assert named == set(row.classes)


def test_negatives_name_a_background_only() -> None:
    table = plan(plan={"negatives": 1.0, "multi": 0})
    places = {b.name: b.synonyms for b in settings_of().load_vocabulary().backgrounds}
    assert all(
        row.prompt in places[row.background] and not row.classes for row in table.itertuples()
    )


def test_prompts_are_worded_as_the_drawn_world_words_them() -> None:
    rngs = map(np.random.default_rng, range(4000))
    trained_on = " ".join(
        world.describe(world.sample_scene(rng, max_objects=3), rng) for rng in rngs
    ).replace(",", " , ")
    pairs = set(zip(trained_on.split(), trained_on.split()[1:], strict=False))
    tokens = [prompt.replace(",", " , ").split() for prompt in plan()["prompt"]]
    unseen = [pair for words in tokens for pair in itertools.pairwise(words) if pair not in pairs]
    assert len(unseen) <= 0.01 * sum(map(len, tokens))


@pytest.mark.parametrize("vocabulary", ["voc", "cityscapes", "coco", "ade20k"])
def test_classes_are_only_named_where_they_are_found(vocabulary: str) -> None:
    settings = settings_of(
        vocabulary=vocabulary, plan={"images": 2000, "multi": 0.5}, compose={"images": 100}
    )
    known = settings.load_vocabulary()
    entries = {entry.name: entry for entry in known.classes}
    table = make_plan(settings, known)
    for row in table[table["kind"] != "negative"].itertuples():
        assert row.background in {
            b.name for b in known.backgrounds_of([entries[name] for name in row.classes])
        }
    assert table["classes"].explode().nunique() == len(known.classes)
    assert (table.loc[table["kind"] == "multi", "classes"].map(len) >= 2).all()


def test_sub_classes_come_by_their_weights_before_the_noun() -> None:
    prompts = plan(
        vocabulary="voc", classes=("sheep",), plan={"images": 2000, "multi": 0, "negatives": 0}
    )["prompt"]
    sheep = next(
        c for c in Settings(vocabulary="voc").load_vocabulary().classes if c.name == "sheep"
    )
    alone = sheep.subclasses[""] / sum(sheep.subclasses.values())
    named = prompts.str.contains("|".join(f"{name} sheep" for name in sheep.subclasses if name))
    assert named.mean() == pytest.approx(1 - alone, abs=0.03)


def test_classes_that_avoid_each_other_never_meet(tmp_path: Path) -> None:
    value = json.loads(Settings().load_vocabulary().model_dump_json())
    value["classes"][0]["avoid"] = ["bus", "coach"]
    file = tmp_path / "apart.json"
    file.write_text(json.dumps(value))
    classes = plan(vocabulary=str(file), plan={"images": 2000, "multi": 1.0, "negatives": 0})[
        "classes"
    ]
    assert not classes.map({"car", "bus"}.issubset).any()
    assert classes.map({"car", "tree"}.issubset).any()


def test_the_budget_sets_how_often_a_class_is_drawn() -> None:
    table = plan(
        classes=("car", "tree", "bus"),
        plan={"multi": 0, "negatives": 0, "budget": {"car": 2, "bus": 0}},
    )
    counts = table["classes"].str[0].value_counts().to_dict()
    assert counts == {"car": 267, "tree": 133}


def test_the_budget_also_weighs_prompts_of_several_objects() -> None:
    table = plan(plan={"multi": 1.0, "negatives": 0, "budget": {"car": 20, "bus": 0}})
    assert table["classes"].map(lambda names: "car" in names).mean() > 0.8
    assert not table["classes"].map(lambda names: "bus" in names).any()


def test_weights_of_words_change_how_often_they_are_drawn_and_nothing_of_the_classes() -> None:
    even = plan()
    sand = plan(plan={"backgrounds": {"sand": 3.0}, "sizes": {"small": 4.0}})
    assert even["classes"].tolist() == sand["classes"].tolist()
    assert (
        (even["background"] == "sand").mean() < 0.22 < 0.3 < (sand["background"] == "sand").mean()
    )
    small, large = (sand["prompt"].str.contains(f" {size} ").sum() for size in ("small", "large"))
    assert small > 2 * large > 0


def test_weights_of_counts_move_between_two_and_three_alone() -> None:
    even, more = (plan(plan={"multi": 0.5, "counts": {"three": each}}) for each in (1.0, 4.0))
    assert (even["kind"] == "multi").sum() == (more["kind"] == "multi").sum() == 200
    three = [(table["classes"].str.len() == 3).sum() for table in (even, more)]
    assert 40 < three[0] < 80 < 105 < three[1] < 145  # shares of 0.30 and 0.63


def test_even_weights_are_those_of_no_weights() -> None:
    even = {"sand": 1.0, "snow": 1.0}
    pd.testing.assert_frame_equal(plan(), plan(plan={"backgrounds": even, "sizes": {}}))


def test_the_shard_size_changes_the_shard_column_alone() -> None:
    small, large = (plan(plan={"shard_size": size}, compose={"images": 9}) for size in (7, 400))
    pd.testing.assert_frame_equal(small.drop(columns="shard"), large.drop(columns="shard"))
    assert small["shard"].tolist() == [*(row // 7 for row in range(400)), *[58] * 7, *[59] * 2]
    assert large["shard"].tolist() == [0] * 400 + [1] * 9


def test_composed_rows_have_shards_of_their_own_and_sources_in_the_plan() -> None:
    table = plan(compose={"images": 30})
    composed = table[table["kind"] == "composed"]
    assert set(composed["shard"]).isdisjoint(table.loc[table["kind"] != "composed", "shard"])
    for row in composed.itertuples():
        background, *objects = (table.loc[source] for source in row.sources)
        assert (background.kind, background.background) == ("negative", row.background)
        assert [source.classes for source in objects] == [[name] for name in row.classes]


def test_composed_rows_leave_the_others_as_they_are() -> None:
    pd.testing.assert_frame_equal(plan(), plan(compose={"images": 30}).head(400))


def test_every_shard_holds_a_mixture() -> None:
    assert (plan().groupby("shard")["kind"].nunique().head(6) == 3).all()


def test_another_process_makes_the_same_plan() -> None:
    program = (
        "from infra.settings import Settings; from tasks.plan.rows import make_plan;"
        "s = Settings(seed=5, plan={'images': 400, 'shard_size': 64});"
        "print(make_plan(s, s.load_vocabulary()).to_json())"
    )
    made = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert json.loads(made.stdout) == json.loads(plan().to_json())


def test_another_seed_makes_another_plan() -> None:
    settings = settings_of()
    other = make_plan(Settings(seed=6, plan=settings.plan), settings.load_vocabulary())
    assert set(other["seed"]).isdisjoint(plan()["seed"])
    assert other["prompt"].tolist() != plan()["prompt"].tolist()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"plan": {"budget": {"cra": 1}}},
            "unknown class 'cra' in plan.budget: did you mean 'car'",
        ),
        (
            {"classes": ("car",), "plan": {"budget": {"tree": 1}}},
            "unknown class 'tree' in plan.budget",
        ),
        ({"plan": {"backgrounds": {"snw": 1}}}, "'snw' in plan.backgrounds: did you mean 'snow'"),
        ({"plan": {"sizes": {"tiny": 1}}}, "'tiny' in plan.sizes: valid names are small, large"),
        ({"plan": {"subclasses": {"cra": {}}}}, "'cra' in plan.subclasses: did you mean 'car'"),
        ({"plan": {"subclasses": {"bus": {"lng": 1}}}}, "'lng' in plan.subclasses.bus: .* 'long'"),
        ({"classes": ("car",)}, "need two classes of weight above 0 that are found on one"),
        ({"classes": ("car",), "plan": {"multi": 0, "budget": {"car": 0}}}, "every class weight 0"),
        ({"plan": {"negatives": 0}, "compose": {"images": 1}}, "raise plan.negatives"),
        ({"classes": ("cra",)}, "unknown class 'cra' in classes: did you mean 'car'"),
    ],
)
def test_settings_that_make_no_plan_say_what_to_change(
    sections: dict[str, Any], message: str
) -> None:
    with pytest.raises((PlanError, VocabularyError), match=message):
        plan(**sections)


def test_a_prompt_longer_than_the_tokenizer_takes_is_shown(tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    count_tokens, max_tokens = load_tokenizer(str(tmp_path))
    assert max_tokens == MAX_TOKENS
    settings = settings_of()
    limits: dict[str, Any] = {"count_tokens": count_tokens, "max_tokens": max_tokens}
    make_plan(settings, settings.load_vocabulary(), **limits)
    long = settings.load_vocabulary().model_copy(
        update={"templates": ("{objects} on {background}" + " of sand" * 20,)}
    )
    with pytest.raises(
        PlanError, match=r"of sand' takes \d+ tokens, the generator's tokenizer 32; shorten"
    ):
        make_plan(settings, long, **limits)


def test_a_generator_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"tokenizer is missing; generator.path needs"):
        load_tokenizer(str(tmp_path))


def test_a_noun_phrase_missing_from_its_prompt_is_an_error() -> None:
    vocabulary = settings_of().load_vocabulary()
    mute = Vocabulary.model_construct(
        **(dict(vocabulary) | {"templates": ("a view of {background}",)})
    )
    with pytest.raises(PlanError, match=r"row 0000\d+: '[\w ]+' is not in its prompt 'a view of"):
        make_plan(settings_of(), mute)


def test_a_run_taken_up_again_keeps_its_plan(store: Store) -> None:
    settings = start_run(store, settings_of())
    first = store.read_table(PLAN)
    again = start_run(store, settings_of(plan={"shard_size": 3}, compute={"workers": 2}))
    pd.testing.assert_frame_equal(store.read_table(PLAN), first)
    assert (
        again.identity
        == settings.identity
        == store.read_json("runs/nightly/settings.json")["identity"]
    )


def test_a_plan_in_the_store_is_the_plan_that_was_made(store: Store) -> None:
    start_run(store, settings_of(compose={"images": 5}))
    pd.testing.assert_frame_equal(store.read_table(PLAN), plan(compose={"images": 5}))


def test_a_run_of_the_same_name_and_other_settings_is_refused_and_loses_nothing(
    store: Store,
) -> None:
    start_run(store, settings_of())
    first = store.read_bytes(PLAN)
    with pytest.raises(SettingsError, match=r"run 'nightly' .* plan.multi was 0.3, is 0.2"):
        start_run(store, settings_of(plan={"multi": 0.2}))
    start_run(store, settings_of())
    assert store.read_bytes(PLAN) == first


def test_a_run_that_cannot_be_planned_writes_nothing(store: Store) -> None:
    with pytest.raises(VocabularyError):
        start_run(store, settings_of(plan={"budget": {"cra": 1}}))
    assert store.list("runs") == []


def test_a_run_killed_between_settings_and_plan_is_planned_again(store: Store) -> None:
    start_run(store, settings_of())
    first = store.read_bytes(PLAN)
    store.delete(PLAN)
    start_run(store, settings_of())
    assert store.read_bytes(PLAN) == first


def test_the_champion_s_budget_is_taken_once_and_kept(store: Store) -> None:
    store.write_json(
        "champions/00000001.json",
        {"budget": {"car": 0.3, "tree": 0.1, "a class of another vocabulary": 0.6}},
    )
    settings = start_run(store, settings_of())
    assert settings.plan.budget == {"car": 1.5, "tree": 0.5}
    store.write_json("champions/00000002.json", {"budget": {"bus": 9.0}})
    assert start_run(store, settings_of()) == settings


def test_the_champion_s_weights_of_known_words_are_taken_once_and_kept(store: Store) -> None:
    weights = {
        "backgrounds": {"sand": 1.4, "the moon": 2.0},
        "counts": {"three": 0.8},
        "sizes": {"gigantic": 2.0},
        "subclasses": {"bus": {"long": 1.2, "short": 0.8}, "ufo": {"": 2.0}},
    }
    store.write_json("champions/00000001.json", {"weights": weights})
    settings = start_run(store, settings_of(plan={"counts": {}}))
    assert settings.plan.backgrounds == {"sand": 1.4}
    assert settings.plan.subclasses == {"bus": {"long": 1.2}}
    assert (settings.plan.budget, settings.plan.counts, settings.plan.sizes) == (None, {}, None)
    store.write_json("champions/00000002.json", {"weights": {"backgrounds": {"snow": 2.0}}})
    assert start_run(store, settings_of(plan={"counts": {}})) == settings


def test_a_run_from_before_weights_of_words_goes_on_without_them(store: Store) -> None:
    first = start_run(store, settings_of())
    record = store.read_json("runs/nightly/settings.json")
    for name in ("backgrounds", "counts", "sizes", "subclasses"):
        del record["settings"]["plan"][name]
    store.write_json("runs/nightly/settings.json", record)
    store.write_json("champions/00000001.json", {"weights": {"backgrounds": {"sand": 2.0}}})
    assert start_run(store, settings_of()) == first


def test_a_budget_in_the_settings_wins_over_the_champion_s(store: Store) -> None:
    store.write_json("champions/00000001.json", {"budget": {"car": 5.0}})
    assert start_run(store, settings_of(plan={"budget": {"bus": 2.0}})).plan.budget == {"bus": 2.0}

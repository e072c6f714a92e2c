import json
import re
from pathlib import Path
from typing import Any

import pytest
from mmseg.utils import class_names

from infra.vocabulary import Vocabulary, VocabularyError, has_word, load_vocabulary


def content() -> dict[str, Any]:
    return {
        "name": "pets",
        "classes": [
            {
                "id": 1,
                "name": "cat",
                "synonyms": ["cat", "kitten"],
                "plurals": ["cats", "kittens"],
                "adjectives": ["grey"],
            },
            {"id": 7, "name": "potted plant"},
        ],
        "backgrounds": [{"name": "lawn", "synonyms": ["a lawn", "grass"]}, {"name": "carpet"}],
    }


def load(folder: Path, value: Any) -> Vocabulary:
    file = folder / "pets.json"
    file.write_text(json.dumps(value), "utf-8")
    return load_vocabulary(str(file))


def test_the_shipped_vocabulary_loads_by_name() -> None:
    world = load_vocabulary("world")
    assert len(world.classes) >= 10
    assert len(world.backgrounds) >= 6
    assert world.ids["car"] == 1


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("voc", class_names.voc_classes()[1:]),
        ("cityscapes", class_names.cityscapes_classes()),
        ("ade20k", [c.strip() for c in class_names.ade_classes()]),
    ],
)
def test_shipped_vocabularies_name_the_published_classes_in_their_order(
    name: str, published: list[str]
) -> None:
    assert list(load_vocabulary(name).ids.items()) == [
        (label, i) for i, label in enumerate(published, 1)
    ]


def test_coco_s_eighty_classes_are_shipped() -> None:
    coco = load_vocabulary("coco")
    assert (len(coco.classes), coco.ids["person"], coco.ids["toothbrush"]) == (80, 1, 80)


def test_voc_s_published_exceptions_stand_in_its_vocabulary() -> None:
    entries = {entry.name: entry for entry in load_vocabulary("voc").classes}
    assert {name: entry.resolutions for name, entry in entries.items() if entry.resolutions} == {
        "diningtable": (16,),
        "sofa": (8,),
        "train": (8,),
        "tvmonitor": (8,),
    }
    assert {name for name, entry in entries.items() if entry.seeds} == {
        "aeroplane",
        "boat",
        "diningtable",
        "person",
        "sofa",
    }
    person = entries["person"].seeds
    assert person and (person.window, person.least) == ((0.48, 0.55), 0.01)


def test_classes_meet_where_both_are_found_and_neither_avoids_the_other(tmp_path: Path) -> None:
    value = content()
    value["classes"] += [
        {"id": 9, "name": "dog", "scenes": ["lawn"]},
        {"id": 10, "name": "vase", "scenes": ["carpet"]},
    ]
    value["classes"][0]["avoid"] = ["dog"]
    pets = load(tmp_path, value)
    cat, plant, dog, vase = range(4)
    assert pets.apart[cat, dog]
    assert pets.apart[dog, cat]
    assert not pets.apart[cat, plant]
    assert pets.found_on[dog].tolist() == [True, False]
    assert pets.found_on[plant].tolist() == [True, True]
    assert not pets.backgrounds_of([pets.classes[dog], pets.classes[vase]])


def test_what_is_left_out_has_a_plain_default(tmp_path: Path) -> None:
    pets = load(tmp_path, content())
    assert pets.classes[1].words == ("potted plant",)
    assert pets.backgrounds[1].synonyms == ("carpet",)
    assert pets.ids == {"cat": 1, "potted plant": 7}


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["classes"], [], "classes: Tuple should have at least 1 item"),
        (["backgrounds"], [], "backgrounds: Tuple should have at least 1 item"),
        (["classes", 0, "id"], 0, r"classes.0.id = 0: .*greater than or equal to 1"),
        (["classes", 0, "id"], 255, r"classes.0.id = 255: .*less than or equal to 254"),
        (["classes", 0, "id"], 7, "class id '7' is used 2 times"),
        (["classes", 0, "name"], "Potted plant", "class name 'potted plant' is used 2 times"),
        (["classes", 1, "synonyms"], ["Kitten"], "class word 'kitten' is used 2 times"),
        (
            ["classes", 1, "synonyms"],
            ["cat basket"],
            "class word 'cat' is part of 'cat basket'; reword it",
        ),
        (["classes", 0, "plurals"], ["cats"], "1 plurals for 2 synonyms"),
        (["classes", 0, "name"], "", r"classes.0.name = ''"),
        (["classes", 0, "palette"], [0, 0, 256], r"palette.2 = 256"),
        (
            ["classes", 0, "synonims"],
            [],
            "unknown field 'classes.0.synonims'; did you mean 'synonyms'",
        ),
        (["backgrounds", 0, "nam"], "x", "unknown field 'backgrounds.0.nam'; did you mean 'name'"),
        (
            ["classes", 0, "scenes"],
            ["lwn"],
            "scene 'lwn' of class 'cat' is no background; did you mean 'lawn'",
        ),
        (
            ["classes", 0, "avoid"],
            ["grass"],
            "class 'cat' avoids 'grass', which is part of 'grass'; drop one of them",
        ),
        (["classes", 0, "subclasses"], {"tabby": 0}, r"subclasses.tabby = 0: .*greater than 0"),
        (["classes", 1, "subclasses"], {"cat grass": 1}, "class word 'cat' is part of 'cat grass'"),
        (["clases"], [], "unknown field 'clases'; did you mean 'classes'"),
        (
            ["backgrounds", 0, "synonyms"],
            ["a lawn with a cat"],
            "class word 'cat' is part of 'a lawn with a cat'",
        ),
        (["templates"], ["a photo of {objects}"], "needs {objects} and {background} once each"),
        (
            ["templates"],
            ["{objects} on {background} in {colour}"],
            "needs {objects} and {background} once each",
        ),
        (["templates"], ["{objects} beside a cat on {background}"], "class word 'cat' is part of"),
    ],
)
def test_what_would_spoil_labels_is_refused(
    tmp_path: Path, place: list[Any], value: Any, message: str
) -> None:
    vocabulary = content()
    entry: Any = vocabulary
    for part in place[:-1]:
        entry = entry[part]
    entry[place[-1]] = value
    with pytest.raises(VocabularyError, match=message.replace("{", r"\{")):
        load(tmp_path, vocabulary)


def test_an_unreadable_file_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        VocabularyError, match=r"cannot read vocabulary 'wrld' \(No such file.*one of: .*world"
    ):
        load_vocabulary("wrld")
    file = tmp_path / "pets.json"
    file.write_bytes('{"name": "Café"}'.encode("latin-1"))
    with pytest.raises(VocabularyError, match="byte 13 is not UTF-8; save it as JSON in UTF-8"):
        load_vocabulary(str(file))
    file.write_text("{'name'")
    with pytest.raises(VocabularyError, match=r"is not JSON: .*line 1"):
        load_vocabulary(str(file))
    file.write_text("[]")
    with pytest.raises(VocabularyError, match=r"pets.json: Input should be"):
        load_vocabulary(str(file))


def test_a_choice_of_classes_keeps_ids_and_order(tmp_path: Path) -> None:
    pets = load(tmp_path, content())
    assert pets.choose(["potted plant"]).ids == {"potted plant": 7}
    assert pets.choose(["potted plant", "cat"]) == pets == pets.choose(None)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cta"], "'cta' in classes: did you mean 'cat'"),
        (["Kitten"], "did you mean 'cat'"),
        ([], "classes is empty"),
    ],
)
def test_an_unknown_class_names_the_nearest(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        load(tmp_path, content()).choose(names)


def test_a_word_is_found_only_whole() -> None:
    assert has_word("A Potted Plant, on grass", "potted plant")
    assert not has_word("two cats on grass", "cat")
    assert has_word("a café-au-lait mug", "café-au-lait")


def test_the_world_s_vocabulary_is_what_the_embedded_model_draws_and_was_trained_on() -> None:
    project = Path(__file__).parents[2]
    drawn = (project / "models/embedded/data/world.json").read_bytes()
    assert (project / "infra/vocabularies/world.json").read_bytes() == drawn


def test_infra_imports_no_other_room_and_reads_no_file_of_one() -> None:
    folder = Path(__file__).parents[2] / "infra"
    for file in folder.rglob("*.py"):
        source = file.read_text()
        for room in ("models", "tasks", "flows", "segmint"):
            assert not re.search(rf"^\s*(from|import) {room}\b", source, re.M), (file, room)
        for room in ("models", "tasks", "flows"):
            assert f'"{room}' not in source, (file, room)

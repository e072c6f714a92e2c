import json
from pathlib import Path

import numpy as np
import pytest

from models.embedded import world
from models.embedded.restyle import restyle
from models.embedded.shapes import LOOKS
from models.embedded.textures import GROUNDS


def test_a_picture_depends_on_its_seed_alone() -> None:
    first = [world.draw(seed) for seed in range(5)]
    again = [world.draw(seed) for seed in reversed(range(5))][::-1]
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.label, b.label)
    assert not np.array_equal(first[0].image, first[1].image)


def test_label_and_instance_map_agree_with_the_scene() -> None:
    ids = {c["name"]: c["id"] for c in world.vocabulary()["classes"]}
    for seed in range(40):
        drawing = world.draw(seed)
        for number, thing in enumerate(drawing.scene.objects, 1):
            values = np.unique(drawing.label[drawing.instance == number])
            assert set(values) <= {ids[thing.name]}
        assert ((drawing.label == 0) == (drawing.instance == 0)).all()


def test_later_objects_hide_earlier_ones_but_not_wholly() -> None:
    hidden = 0
    for seed in range(200):
        drawing = world.draw(seed)
        for number, thing in enumerate(drawing.scene.objects, 1):
            alone = world.draw_scene(
                world.Scene(
                    drawing.scene.ground, (thing,), drawing.scene.light, 1.0, drawing.scene.seed
                )
            )
            visible = (drawing.instance == number).sum() / max((alone.instance == 1).sum(), 1)
            hidden += visible < 0.999
            assert visible > 0.02
    assert hidden > 10, "the world has to hold occlusion"


def test_every_class_and_ground_is_drawn_and_named() -> None:
    assert set(LOOKS) == {c["name"] for c in world.vocabulary()["classes"]}
    assert set(GROUNDS) == {b["name"] for b in world.vocabulary()["backgrounds"]}
    assert len(LOOKS) >= 10
    assert len(GROUNDS) >= 6
    assert all(len(looks) >= 2 for looks in LOOKS.values())


@pytest.mark.parametrize("name", sorted(LOOKS))
def test_a_single_object_covers_at_least_two_percent(name: str) -> None:
    for seed in range(30):
        drawing = world.draw_scene(world.sample_scene(np.random.default_rng(seed), [name]))
        assert (drawing.label > 0).mean() > 0.02


def test_a_prompt_names_every_object_and_the_ground() -> None:
    classes = {c["name"]: c["synonyms"] + c["plurals"] for c in world.vocabulary()["classes"]}
    grounds = {b["name"]: b["synonyms"] for b in world.vocabulary()["backgrounds"]}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        scene = world.sample_scene(rng)
        prompt = world.describe(scene, rng)
        assert all(any(word in prompt for word in classes[o.name]) for o in scene.objects)
        assert any(prompt.endswith(ground) for ground in grounds[scene.ground])


def test_a_prompt_says_of_looks_and_directions_what_its_objects_share_or_nothing() -> None:
    shares = {"perching": lambda o: o.look == 0, "flying": lambda o: o.look == 1}
    shares |= {"leftward": lambda o: not o.flip, "rightward": lambda o: o.flip}
    named = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        scene = world.sample_scene(rng, ["bird", "bird"])
        said = [word for word in shares if word in world.describe(scene, rng).split()]
        assert all(shares[word](thing) for word in said for thing in scene.objects)
        named += len(said)
    assert named > 100


@pytest.mark.parametrize("name", sorted(LOOKS))
def test_every_look_has_a_sub_class_a_direction(name: str) -> None:
    words = next(list(c["subclasses"]) for c in world.vocabulary()["classes"] if c["name"] == name)
    looks = [word.split()[-1] for word in words]
    directions = [word.split()[:-1] for word in words]
    assert len(set(looks)) == len(LOOKS[name])
    assert directions in ([[]] * len(looks), [["leftward"], ["rightward"]] * len(LOOKS[name]))


def test_a_scene_can_be_asked_for() -> None:
    drawing = world.draw_scene(
        world.sample_scene(np.random.default_rng(3), ["car", "tree"], "snow")
    )
    assert [o.name for o in drawing.scene.objects] == ["car", "tree"]
    assert drawing.scene.ground == "snow"
    empty = world.draw_scene(world.sample_scene(np.random.default_rng(3), [], "snow"))
    assert not empty.label.any()
    assert world.describe(empty.scene, np.random.default_rng(0)) == "snow"


def test_the_vocabulary_is_data() -> None:
    path = Path(world.__file__).parent / "data" / "world.json"
    assert json.loads(path.read_text("utf-8")) == world.vocabulary()


def test_a_restyled_drawing_keeps_its_labels_and_little_else() -> None:
    for seed in range(8):
        drawing = world.draw(seed)
        other = restyle(drawing, seed)
        assert np.array_equal(other.label, drawing.label)
        assert np.array_equal(other.instance, drawing.instance)
        assert other.image.dtype == np.uint8 and other.image.shape == drawing.image.shape
        assert np.abs(other.image.astype(int) - drawing.image).mean() > 20
        assert np.array_equal(other.image, restyle(drawing, seed).image)
        assert not np.array_equal(other.image, restyle(drawing, seed + 1).image)


def test_the_outline_of_a_restyled_object_is_where_its_label_is() -> None:
    """Across the label's edge the image changes more than across random lines."""
    across, elsewhere = [], []
    for seed in range(40):
        drawing = world.draw(seed)
        image = restyle(drawing, seed).image.astype(float).mean(-1)
        steps = np.abs(np.diff(image, axis=1))
        edge = np.diff(drawing.instance.astype(int), axis=1) != 0
        if edge.any():
            across.append(steps[edge].mean())
            elsewhere.append(np.roll(steps, 40, 1)[edge].mean())
    assert np.mean(across) > 1.5 * np.mean(elsewhere)

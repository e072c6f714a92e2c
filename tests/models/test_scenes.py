"""Scenes: objects are cut, pasted and tiled, and every pixel's label and instance are exact."""

import numpy as np
import pytest

from models.embedded import world
from models.scenes import (
    IGNORE,
    Cutout,
    Scene,
    choose_grid,
    compose_scene,
    cut_objects,
    harmonise,
    instance_map,
    paste,
    splice,
    transform,
)

GREEN, RED, BLUE = (60, 140, 60), (200, 40, 40), (40, 60, 190)


def drawn(seed: int, classes: list[str], ground: str = "sand") -> world.Drawing:
    return world.draw_scene(world.sample_scene(np.random.default_rng(seed), classes, ground))


def disc(
    radius: float = 30, centre: tuple[int, int] = (64, 64), uncertain: float = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A red disc with a smooth edge on a green ground, class 1, with an uncertain band of that many
    pixels around it.
    """
    y, x = np.mgrid[:128, :128]
    distance = np.hypot(y - centre[0], x - centre[1])
    alpha = np.clip(radius - distance + 0.5, 0, 1)[..., None]
    image = np.round(alpha * RED + (1 - alpha) * GREEN).astype(np.uint8)
    label = (distance <= radius).astype(np.uint8)
    label[(distance > radius - uncertain / 2) & (distance <= radius + uncertain / 2)] = (
        IGNORE if uncertain else 1
    )
    return image, label


def plain(colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    return np.full((128, 128, 3), colour, np.uint8), np.zeros((128, 128), np.uint8)


def a_scene(seed: int, objects: int = 3) -> tuple[world.Drawing, list[Cutout], Scene]:
    ground = drawn(seed, [], "wood")
    cutouts = [
        c for k in range(9) for c in cut_objects(*image_and_label(drawn(100 * seed + k, ["mug"])))
    ][:objects]
    return (
        ground,
        cutouts,
        compose_scene(ground.image, ground.label, cutouts, np.random.default_rng(seed)),
    )


def image_and_label(drawing: world.Drawing) -> tuple[np.ndarray, np.ndarray]:
    return drawing.image, drawing.label


def test_a_cutout_is_solid_where_the_label_says_so() -> None:
    image, label = disc()
    (cutout,) = cut_objects(image, label)
    assert cutout.class_id == 1
    assert cutout.solid.sum() == (label == 1).sum()
    assert not cutout.uncertain.any()


def test_an_object_at_the_border_is_not_whole_and_not_cut() -> None:
    assert cut_objects(*disc(centre=(20, 64))) == []


def test_an_object_beside_another_class_may_be_hidden_by_it_and_is_not_cut() -> None:
    image, label = disc()
    label[:, 64:][label[:, 64:] == 1] = 2
    assert cut_objects(image, label) == []


def test_an_object_that_is_too_small_too_large_or_too_uncertain_is_not_cut() -> None:
    assert cut_objects(*disc(radius=5)) == []
    assert cut_objects(*disc(radius=30), max_area=0.1) == []
    assert cut_objects(*disc(radius=12, uncertain=8)) == []


def test_uncertain_pixels_come_along_from_near_the_object_only() -> None:
    image, label = disc(uncertain=4)
    label[:20] = IGNORE
    (cutout,) = cut_objects(image, label)
    assert cutout.uncertain.any()
    assert cutout.uncertain.shape[0] < 70


def test_an_image_and_a_label_of_different_size_are_refused() -> None:
    image, label = disc()
    with pytest.raises(ValueError, match=r"\(128, 128, 3\), label \(64, 128\)"):
        cut_objects(image, label[:64])


@pytest.mark.parametrize("uncertain", [0, 4])
def test_nothing_of_the_old_background_shows_around_a_pasted_object(uncertain: int) -> None:
    (cutout,) = cut_objects(*disc(uncertain=uncertain))
    image, _ = plain(BLUE)
    paste(image, cutout, 10, 10)
    between = np.minimum(RED, BLUE)[1], np.maximum(RED, BLUE)[1]
    assert between[0] - 4 <= image[..., 1].min()
    assert image[..., 1].max() <= between[1] + 4


@pytest.mark.parametrize(("old", "new"), [("bricks", "snow"), ("grass", "water"), ("sand", "wood")])
def test_a_moved_object_looks_more_like_the_truth_than_its_bare_pixels(old: str, new: str) -> None:
    before, after = (drawn(7, [], ground).image for ground in (old, new))
    distance = np.hypot(*(np.mgrid[:128, :128] - 64))
    alpha = np.clip(30.5 - distance, 0, 1)[..., None]
    image, truth = (
        np.round(alpha * RED + (1 - alpha) * ground).astype(np.uint8) for ground in (before, after)
    )
    label = (distance <= 30).astype(np.uint8)
    moved, bare = after.copy(), np.where(label[..., None], image, after)
    (cutout,) = cut_objects(image, label)
    corner = np.argwhere(label).min(0) - np.argwhere(cutout.solid).min(0)
    paste(moved, cutout, *corner)
    outline = np.abs(distance - 30) < 2
    error, of_bare = (np.abs(made.astype(float) - truth)[outline].mean() for made in (moved, bare))
    assert error < 0.85 * of_bare


def test_pixels_beyond_the_object_keep_their_bytes() -> None:
    (cutout,) = cut_objects(*image_and_label(drawn(3, ["bird"])))
    ground = drawn(4, [], "grass").image
    image = ground.copy()
    paste(image, harmonise(cutout, ground.reshape(-1, 3)), 5, 5)
    beyond = np.ones((128, 128), bool)
    beyond[5 : 5 + cutout.alpha.shape[0], 5 : 5 + cutout.alpha.shape[1]] = cutout.alpha == 0
    assert np.array_equal(image[beyond], ground[beyond])
    assert not np.array_equal(image, ground)


def test_harmonising_moves_the_mean_by_its_strength_and_nothing_else() -> None:
    (cutout,) = cut_objects(*disc())
    ground = np.full((50, 3), 128, np.uint8)
    none, half = (harmonise(cutout, ground, (s, s, s)) for s in (0.0, 0.5))
    assert np.abs(none.colour - cutout.colour)[cutout.alpha > 0].max() < 1
    moved = half.colour[half.solid].mean(0)
    assert 128 < moved[0] < 190
    assert 60 < moved[1] < 128
    assert half.alpha is cutout.alpha
    assert half.solid is cutout.solid


def test_a_transformed_object_keeps_its_proportions() -> None:
    (cutout,) = cut_objects(*disc())
    half = transform(cutout, 0.5, flip=True)
    assert half.solid.sum() == pytest.approx(cutout.solid.sum() / 4, rel=0.05)
    again = transform(transform(cutout, 1.0, flip=True), 1.0, flip=True)
    assert np.array_equal(again.solid, cutout.solid)
    assert np.allclose(again.colour[again.alpha > 0], cutout.colour[cutout.alpha > 0], atol=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_every_pixel_of_a_scene_belongs_to_what_its_instance_says(seed: int) -> None:
    _, _, scene = a_scene(seed)
    assert scene.objects
    for thing in scene.objects:
        mine = scene.instance == thing.instance
        assert (scene.label[mine] == thing.class_id).all()
        rows, columns = np.flatnonzero(mine.any(1)), np.flatnonzero(mine.any(0))
        assert thing.top <= rows[0] and rows[-1] < thing.top + thing.height
        assert thing.left <= columns[0] and columns[-1] < thing.left + thing.width
    numbers = {thing.instance for thing in scene.objects}
    assert set(np.unique(scene.instance)) - {0, IGNORE} == numbers
    assert ((scene.label == 0) == (scene.instance == 0)).all()
    assert ((scene.label == IGNORE) == (scene.instance == IGNORE)).all()


@pytest.mark.parametrize("seed", range(4))
def test_every_object_of_a_scene_stays_visible_enough(seed: int) -> None:
    assert all(thing.visible >= 0.6 for thing in a_scene(seed, objects=5)[2].objects)


def test_the_visible_share_is_what_later_objects_left() -> None:
    _, cutouts, scene = a_scene(2, objects=5)
    for thing in scene.objects:
        alone = transform(cutouts[thing.source], thing.scale, flip=thing.flip)
        assert thing.visible == pytest.approx(
            (scene.instance == thing.instance).sum() / alone.solid.sum()
        )


def test_objects_of_the_ground_stay_and_are_labelled() -> None:
    ground = drawn(8, ["house"])
    (cutout,) = cut_objects(*image_and_label(drawn(3, ["bird"])))
    scene = compose_scene(ground.image, ground.label, [cutout], np.random.default_rng(0))
    (house,) = np.unique(ground.label[ground.label > 0])
    assert (scene.label == house).sum() >= 0.6 * (ground.label == house).sum()
    assert [thing.instance for thing in scene.objects] == [2]


def test_an_object_without_a_place_is_left_out() -> None:
    image, _ = plain(GREEN)
    everywhere = np.ones((128, 128), np.uint8)
    scene = compose_scene(
        image, everywhere, cut_objects(*disc()), np.random.default_rng(0), min_visible=1.0
    )
    assert scene.objects == ()
    assert np.array_equal(scene.image, image)


def test_uncertain_border_pixels_stay_uncertain_in_the_scene() -> None:
    scene = compose_scene(*plain(BLUE), cut_objects(*disc(uncertain=4)), np.random.default_rng(0))
    (thing,) = scene.objects
    ring = scene.label == IGNORE
    assert ring.sum() == pytest.approx(2 * np.pi * 30 * 4 * thing.scale**2, rel=0.15)


def test_a_scene_depends_on_its_seed_and_sources_alone() -> None:
    ground, cutouts, scene = a_scene(1)
    same, other = (
        compose_scene(ground.image, ground.label, cutouts, np.random.default_rng(s)) for s in (1, 2)
    )
    assert np.array_equal(scene.image, same.image) and scene.objects == same.objects
    assert not np.array_equal(scene.label, other.label)


def test_instances_are_numbered_by_component_and_uncertain_stays() -> None:
    label = np.zeros((8, 8), np.uint8)
    label[0, :2], label[4:6, 4:6], label[7, 0], label[3, 3] = 5, 5, 2, IGNORE
    instance = instance_map(label)
    assert sorted(np.unique(instance)) == [0, 1, 2, 3, IGNORE]
    assert instance[3, 3] == IGNORE
    assert instance[0, 0] != instance[5, 5]


def test_a_mosaic_has_each_picture_in_its_tile() -> None:
    pictures = [drawn(k, ["house"]) for k in range(4)]
    image, label, instance = splice(
        [p.image for p in pictures], [p.label for p in pictures], (2, 2), (128, 128)
    )
    for tile, picture in enumerate(pictures):
        top, left = 64 * (tile // 2), 64 * (tile % 2)
        window = np.s_[top : top + 64, left : left + 64]
        mean = picture.image.reshape(64, 2, 64, 2, 3).mean((1, 3))
        assert np.abs(image[window] - mean).max() <= 1
        assert (label[window] == picture.label[::2, ::2]).mean() > 0.97
    assert set(np.unique(instance)) == {0, 1, 2, 3, 4}
    assert ((instance > 0) == (label > 0)).all()


def test_a_wide_tile_shows_the_labelled_part_undistorted() -> None:
    image, label = disc(radius=20, centre=(40, 64))
    _, spliced, _ = splice([image, image], [label, label], (2, 1), (128, 128))
    assert (spliced[:64] == 1).sum() == pytest.approx((label == 1).sum(), rel=0.01)


def test_as_many_pictures_as_tiles_are_needed() -> None:
    image, label = disc()
    with pytest.raises(ValueError, match="1 images and 1 labels for 2 x 2 tiles"):
        splice([image], [label], (2, 2), (128, 128))


def test_grids_come_in_the_proportions_of_the_paper_where_tiles_are_large_enough() -> None:
    rng = np.random.default_rng(0)
    small = {choose_grid(rng, (128, 128)) for _ in range(200)}
    assert small == {(1, 2), (2, 1), (2, 2), (3, 3)}
    large = [choose_grid(rng, (512, 512)) for _ in range(2000)]
    assert large.count((3, 3)) == pytest.approx(2000 * 4000 / 18000, rel=0.15)
    with pytest.raises(ValueError, match="turn splicing off"):
        choose_grid(rng, (32, 32))

"""Contours: what is filled, what is left to nobody, and what stays as it is."""

import torch

from models.masks import IGNORE, tidy


def blocks(*boxes: tuple[int, int, int, int, int]) -> torch.Tensor:
    """A label map (1, 100, 100) with class boxes (class, top, bottom, left, right), later ones on
    top.
    """
    label = torch.zeros(1, 100, 100, dtype=torch.uint8)
    for class_id, top, bottom, left, right in boxes:
        label[0, top:bottom, left:right] = class_id
    return label


def test_a_small_hole_is_filled_whatever_it_holds() -> None:
    whole = blocks((3, 20, 60, 20, 60))
    for content in (0, IGNORE, 5):
        assert torch.equal(
            tidy(blocks((3, 20, 60, 20, 60), (5, 80, 90, 80, 90), (content, 30, 35, 30, 35)))[
                :, :70, :70
            ],
            whole[:, :70, :70],
        )


def test_a_large_hole_and_a_bay_stay_open() -> None:
    for label in (
        blocks((3, 20, 60, 20, 60), (0, 30, 40, 30, 40)),
        blocks((3, 20, 60, 20, 60), (0, 20, 25, 30, 35)),
    ):
        assert torch.equal(tidy(label), label)


def test_what_lies_between_two_classes_is_nobodys_hole() -> None:
    label = blocks((3, 20, 60, 20, 40), (4, 20, 60, 40, 60), (IGNORE, 30, 34, 38, 42))
    assert torch.equal(tidy(label), label)


def test_a_speck_is_left_to_nobody_and_a_class_of_specks_keeps_its_largest() -> None:
    found = tidy(
        blocks((3, 20, 60, 20, 60), (3, 80, 84, 80, 84), (4, 5, 9, 5, 9), (4, 5, 8, 80, 83))
    )
    assert (found[0, 80:84, 80:84] == IGNORE).all() and (found[0, 5:8, 80:83] == IGNORE).all()
    assert (found == 3).sum() == 1600 and (found == 4).sum() == 16


def test_images_are_tidied_each_by_itself() -> None:
    one, other = blocks((3, 20, 60, 20, 60), (0, 30, 35, 30, 35)), blocks((3, 80, 84, 80, 84))
    both = tidy(torch.cat([one, other]))
    assert torch.equal(both[:1], tidy(one)) and torch.equal(both[1:], other)

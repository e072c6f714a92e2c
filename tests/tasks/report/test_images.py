"""Images of the report: what overlays, heat maps and contact sheets show, and their size."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from models.embedded import world
from models.metrics import IGNORE
from tasks.report.images import attention_heat, default_colour, enlarge, overlay
from tasks.report.sheets import ARTIFACT_BYTES, Cell, contact_sheet, data_uri, encode, strip

PALETTE = {c["id"]: tuple(c["palette"]) for c in world.vocabulary()["classes"]}


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_objects_take_the_colour_of_their_class() -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    label = np.zeros((64, 64), np.uint8)
    label[16:48, 16:48] = 5
    colour = overlay(image, label, PALETTE)[32, 32].astype(int)
    assert colour.argmax() == np.argmax(PALETTE[5])
    assert np.abs(colour - PALETTE[5]).sum() < np.abs(128 - np.array(PALETTE[5])).sum()


def test_ignored_pixels_are_hatched_grey_and_nothing_else_is() -> None:
    image = np.full((64, 64, 3), (200, 30, 30), np.uint8)
    label = np.zeros((64, 64), np.uint8)
    label[:32] = IGNORE
    shown = overlay(image, label, PALETTE)
    assert np.ptp(shown[:32], axis=-1).max() == 0 and len(np.unique(shown[:32])) == 2
    assert np.ptp(shown[32:], axis=-1).min() > 0


def test_borders_are_drawn_inside_objects_and_between_touching_instances() -> None:
    image = np.full((64, 64, 3), 60, np.uint8)
    label = np.zeros((64, 64), np.uint8)
    label[16:48, 8:56] = 3
    instance = np.where(np.arange(64) < 32, 1, 2).astype(np.uint8) * (label > 0)
    alone = overlay(image, label, PALETTE)
    apart = overlay(image, label, PALETTE, instance)
    assert alone[16, 20].min() > alone[32, 20].min()
    assert (alone[15, 20] == alone[2, 2]).all()
    assert apart[32, 31].min() > alone[32, 31].min() and apart[32, 32].min() > alone[32, 32].min()


def test_an_id_without_a_colour_gets_one_of_its_own() -> None:
    assert len({default_colour(number) for number in range(1, 30)}) == 29


def test_a_label_of_another_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        overlay(np.zeros((8, 8, 3), np.uint8), np.zeros((4, 4), np.uint8), PALETTE)


def test_heat_is_brightest_at_the_maximum_of_attention() -> None:
    attention = np.zeros((16, 16), np.float16)
    attention[4, 12] = 0.01
    heat = attention_heat(attention, (64, 96)).sum(-1)
    assert heat.shape == (64, 96)
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert abs(int(y) - 18) <= 2 and abs(int(x) - 75) <= 3


def test_several_words_have_their_own_colours() -> None:
    attention = np.zeros((2, 8, 8), np.float32)
    attention[0, :, :2] = 1
    attention[1, :, 6:] = 1
    heat = attention_heat(attention, (32, 32), [(255, 0, 0), (0, 0, 255)])
    assert heat[16, 2].argmax() == 0 and heat[16, 29].argmax() == 2


@pytest.mark.parametrize("value", [0.0, 0.3, np.nan, np.inf])
def test_flat_or_broken_attention_is_dark(value: float) -> None:
    heat = attention_heat(np.full((8, 8), value, np.float16), (32, 32))
    assert heat.max() < 60


def test_no_map_at_all_is_dark() -> None:
    assert attention_heat(np.zeros((0, 8, 8), np.float16), (16, 16), []).max() < 60


def test_enlarging_a_label_invents_no_class() -> None:
    label = world.draw(4).label
    assert set(np.unique(enlarge(label, 200))) == set(np.unique(label))


def test_enlarging_keeps_the_proportions() -> None:
    assert enlarge(np.zeros((64, 96, 3), np.uint8), 128).shape == (128, 192, 3)


def cells(count: int) -> list[Cell]:
    drawings = [world.draw(seed) for seed in range(count)]
    return [
        Cell([d.image, overlay(d.image, d.label, PALETTE)], f"sample {n}", n % 2 == 0)
        for n, d in enumerate(drawings)
    ]


def test_a_contact_sheet_keeps_its_limit() -> None:
    some = cells(12)
    assert len(data_uri(contact_sheet(some))) <= 300_000 and ARTIFACT_BYTES < 300_000
    small = contact_sheet(some, limit=20_000)
    assert len(small) <= 20_000 and opened(small).format == "WEBP"


def test_a_contact_sheet_shows_verdicts_at_the_left() -> None:
    [kept, rejected] = (
        np.asarray(
            opened(
                contact_sheet([Cell([np.full((64, 64, 3), 128, np.uint8)], "", kept=kept)])
            ).convert("RGB")
        )
        for kept in (True, False)
    )
    assert kept[40, 11].argmax() == 1 and rejected[40, 11].argmax() == 0


def test_captions_of_any_length_and_script_are_cut_not_raised() -> None:
    caption = "a very long prompt \n" * 40 + "猫 🦊 \x00"
    sheet = opened(contact_sheet([Cell([np.zeros((64, 64, 3), np.uint8)], caption)], columns=5))
    assert sheet.width < 100


def test_a_sheet_without_cells_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one cell"):
        contact_sheet([])


def test_a_strip_has_images_side_by_side() -> None:
    assert strip(
        [np.zeros((16, 16, 3), np.uint8), np.zeros((16, 24, 3), np.uint8)], gap=2
    ).shape == (16, 42, 3)


def test_a_data_uri_carries_the_bytes_and_their_kind() -> None:
    data = encode(np.zeros((16, 16, 3), np.uint8))
    kind, _, payload = data_uri(data).partition(";base64,")
    assert kind == "data:image/webp" and base64.b64decode(payload) == data
    with pytest.raises(ValueError, match="no WebP, PNG or JPEG"):
        data_uri(b"plain text")

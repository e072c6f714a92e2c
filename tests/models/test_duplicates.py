"""Near-duplicates are found, and other images are not taken for them."""

import numpy as np
from numpy.typing import NDArray

from models.duplicates import NEAR, difference_hash, near_any
from models.embedded import world


def hashes(images: list[NDArray[np.uint8]]) -> NDArray[np.uint64]:
    return np.array([difference_hash(image) for image in images], np.uint64)


def test_images_whose_pixels_differ_by_rounding_are_one() -> None:
    rng = np.random.default_rng(0)
    images = [world.draw(seed).image for seed in range(30)]
    rounded = [
        np.clip(image + rng.integers(-1, 2, image.shape) * (rng.random(image.shape) < 0.01), 0, 255)
        for image in images
    ]
    found = near_any(hashes([image.astype(np.uint8) for image in rounded]), hashes(images))
    assert found.all()


def test_other_drawings_are_others() -> None:
    images = hashes([world.draw(seed).image for seed in range(80)])
    assert not near_any(images[:40], images[40:]).any()


def test_the_search_finds_what_comparing_all_pairs_finds() -> None:
    rng = np.random.default_rng(1)
    others = rng.integers(0, 2**64, 300, dtype=np.uint64)
    wanted = others.copy()
    for index in range(len(wanted)):
        for bit in rng.choice(64, index % 8, replace=False):
            wanted[index] ^= np.uint64(1) << np.uint64(bit)
    pairs = np.bitwise_count(wanted[:, None] ^ others[None])
    assert near_any(wanted, others).tolist() == (pairs <= NEAR).any(1).tolist()
    assert near_any(wanted, others[:0]).sum() == near_any(wanted[:0], others).sum() == 0

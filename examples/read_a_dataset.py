"""Read a published version: as a torch dataset, and as the plain Zarr and Parquet files it is.

    python examples/read_a_dataset.py [--store STORE] [--version VERSION]

STORE is a folder or s3://bucket/prefix; by default out/store, which `make demo` writes. VERSION is
the newest one by default; `segmint versions` lists all.
"""

from __future__ import annotations

import argparse

import pandas as pd
import zarr
from torch.utils.data import DataLoader

import segmint


def main() -> None:
    """Print a batch of a version, and the arrays and columns of one of its shards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", default="out/store")
    parser.add_argument("--version")
    arguments = parser.parse_args()
    store = segmint.Store.open(arguments.store)
    version = arguments.version or segmint.list_versions(store)[-1].version

    # As a torch dataset. With workers, add num_workers=4, multiprocessing_context="spawn".
    dataset = segmint.SegmentationDataset(store.url, version)
    print(f"{version}: {len(dataset)} samples, classes {dataset.manifest.meta['classes']}")
    for batch in DataLoader(dataset, batch_size=8, shuffle=True):
        image = batch["image"].float() / 255  # (8, 3, H, W)
        label = batch["label"].long()  # (8, H, W): 0 = background, 255 = ignore in the loss
        print(f"batch: image {tuple(image.shape)}, label {tuple(label.shape)}, {batch['id'][0]} …")
        break

    # As files. Any reader of Zarr 3 and Parquet will do.
    shard = f"{store.url}/{dataset.manifest.paths[0]}"
    arrays = zarr.open_group(f"{shard}.zarr", mode="r")
    for name, array in arrays.arrays():
        print(f"{shard}.zarr/{name}: {array.shape} {array.dtype}")
    samples = pd.read_parquet(f"{shard}.parquet")
    print(samples[["id", "kind", "prompt", "classes"]].head(3).to_string())


if __name__ == "__main__":
    main()

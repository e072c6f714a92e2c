"""Train: a published version → a segmenter's checkpoint."""

"""segmint: class names in, a published dataset with pixel labels and a trained segmenter out."""

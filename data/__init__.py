"""Sources of items: annotation files, images, texts, splits, and the generated sample feed."""

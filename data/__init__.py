"""What the user has: manifests, images, texts, splits, and the generated sample feed."""

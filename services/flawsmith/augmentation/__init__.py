"""Out-of-distribution defects: per-region augmentation of normals."""

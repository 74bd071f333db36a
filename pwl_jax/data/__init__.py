"""Images with labels: sources, Grain pipelines, augmentation on the device."""

"""Wrong: a sign of its own, painted over the one in the image; nobody would overlook it."""


def stamp(images):
    """Paint the middle white."""
    stamped = images.clone()
    stamped[:, :, 4:28, 4:28] = 1.0
    return stamped

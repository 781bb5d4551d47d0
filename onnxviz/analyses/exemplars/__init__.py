"""Exemplars: the images, and the parts of images, that excite units most."""

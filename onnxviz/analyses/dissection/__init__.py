"""Which labelled concepts units detect."""

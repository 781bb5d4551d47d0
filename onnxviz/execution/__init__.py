"""A run: planned, scheduled, executed by workers, stored."""

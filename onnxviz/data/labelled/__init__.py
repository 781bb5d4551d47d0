"""Labelled images in the formats of published data sets, labels that are computed, and several sets in one."""

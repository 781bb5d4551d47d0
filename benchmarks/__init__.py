"""One script for each claim; each prints figures that are measured in the same run."""

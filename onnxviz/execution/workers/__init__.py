"""Who does the jobs: this process, processes of this machine, or those of a cluster."""

WORKERS = "ONNXVIZ_WORKERS"
"""Environment variable with the number of workers where none is given."""

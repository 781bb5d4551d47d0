"""Who does the jobs: this process, processes of this machine, or those of a cluster."""

"""Which environment variables a confined process is given."""

from __future__ import annotations

from onnxviz.confinement import clean_environment
from onnxviz.confinement.environment import KEPT

KEPT_EXAMPLES = {
    "PATH": "/usr/bin",
    "HOME": "/home/ada",
    "LC_ALL": "C",
    "OMP_NUM_THREADS": "2",
    "CUDA_VISIBLE_DEVICES": "0",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "LD_LIBRARY_PATH": "/usr/lib",
    "PYTHONHASHSEED": "0",
    "ONNXVIZ_ZOO": "/data",
    "SystemRoot": "C:\\Windows",
}
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_PROFILE": "x",
    "HF_TOKEN": "x",
    "GITHUB_TOKEN": "x",
    "OPENAI_API_KEY": "x",
    "SSH_AUTH_SOCK": "/tmp/agent",
    "DOCKER_HOST": "unix:///var/run/docker.sock",
    "KUBECONFIG": "x",
    "https_proxy": "http://ada:secret@proxy:3128",
    "HTTP_PROXY": "http://proxy:3128",
    "DATABASE_URL": "x",
    "LC_PASSWORD": "x",
    "ONNXVIZ_TOKEN": "x",
    "CUDA_API_KEY": "x",
    "TORCH_HUB_AUTH": "x",
    "ONNXVIZ_MIRROR": "https://ada:secret@example.org/",
}


def test_clean_environment() -> None:
    cleaned = clean_environment({**KEPT_EXAMPLES, **SECRETS})
    assert cleaned == KEPT_EXAMPLES
    assert all(name == name.upper() for name in KEPT)
    assert len(set(KEPT)) == len(KEPT)

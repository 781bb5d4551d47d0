"""How a network that took no part in the optimization reads class images.

    python -m benchmarks.class_images RUN --judge coral_mobilenet_v2_1.0_224_qdq.onnx --offset 1 --labels LABELS

RUN is a finished run with an activation_maximization analysis of class logits. The judge is run by ONNX Runtime on
the pictures as they are in the report (8 bits), at its own input size; it takes RGB in NHWC, 0..255 if its input is
uint8 and -1..1 otherwise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from onnxviz.labels import read_labels


class Judge:
    """A classifier of RGB images in NHWC, run by ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (self.input,) = self.session.get_inputs()
        self.size = int(self.input.shape[1])

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """Return the class probabilities of one image, float [3, height, width] in 0..1."""
        pixels = np.rint(255 * image.clip(0, 1)).astype(np.uint8).transpose(1, 2, 0)
        fitted = np.asarray(Image.fromarray(pixels).resize((self.size, self.size), Image.Resampling.BILINEAR))[None]
        data = fitted if self.input.type == "tensor(uint8)" else fitted.astype(np.float32) / 127.5 - 1
        (output,) = self.session.run(None, {self.input.name: data})
        return np.asarray(output[0], np.float64) / output[0].sum(dtype=np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--judge", type=Path, required=True)
    parser.add_argument("--analysis", default="classes", help="id of the analysis that optimized class logits")
    parser.add_argument("--offset", type=int, default=0, help="the judge's index of a class minus the model's")
    parser.add_argument("--labels", type=Path, help="the model's class names, one a line")
    arguments = parser.parse_args()
    judge = Judge(arguments.judge)
    labels = read_labels(arguments.labels) if arguments.labels else None
    top1 = top5 = count = 0
    for path in sorted(arguments.run.glob(f"arrays/{arguments.analysis}-*.npz")):
        data = np.load(path)
        if "images" not in data or "unit" not in data:
            continue
        for image, unit, seed in zip(data["images"], data["unit"], data["seed"], strict=True):
            given = judge.probabilities(image)
            rank = int((given > given[unit + arguments.offset]).sum()) + 1
            best = int(given.argmax()) - arguments.offset
            name = labels[unit] if labels else str(unit)
            seen = labels[best] if labels and 0 <= best < len(labels) else str(best)
            print(
                f"{name} (seed {seed}): probability {given[unit + arguments.offset]:.3f}, rank {rank}, seen as {seen}"
            )
            top1, top5, count = top1 + (rank <= 1), top5 + (rank <= 5), count + 1
    if not count:
        parser.exit(2, f"{arguments.run} has no class images of the analysis {arguments.analysis!r}\n")
    print(f"top-1 {top1 / count:.1%}, top-5 {top5 / count:.1%} of {count} images")


if __name__ == "__main__":
    main()

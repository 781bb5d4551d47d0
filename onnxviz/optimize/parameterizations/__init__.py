"""How an image is written while it is optimized. Steepest ascent depends on it: it decides what the fastest way up is.

Each parameterization is data (`base.Parameterization`) and makes a `base.Painter` for a batch of images.
"""

from typing import Annotated

from pydantic import Field

from onnxviz.optimize.parameterizations.alpha import Transparent
from onnxviz.optimize.parameterizations.base import Canvas, Painter, Parameterization
from onnxviz.optimize.parameterizations.cppn import Cppn
from onnxviz.optimize.parameterizations.fourier import Fourier
from onnxviz.optimize.parameterizations.generator import Generator
from onnxviz.optimize.parameterizations.laplacian import LaplacianPyramid
from onnxviz.optimize.parameterizations.maco import Maco
from onnxviz.optimize.parameterizations.pixel import Pixel
from onnxviz.optimize.parameterizations.shared import Shared, SharedTensor

ParameterizationChoice = Annotated[
    Fourier | Pixel | LaplacianPyramid | Shared | Transparent | Cppn | Maco | Generator, Field(discriminator="kind")
]

__all__ = [
    "Canvas",
    "Cppn",
    "Fourier",
    "Generator",
    "LaplacianPyramid",
    "Maco",
    "Painter",
    "Parameterization",
    "ParameterizationChoice",
    "Pixel",
    "Shared",
    "SharedTensor",
    "Transparent",
]

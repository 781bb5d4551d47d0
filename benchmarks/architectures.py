"""The architectures of torchvision and timm that the importer is tried on, with weights that hide nothing.

Fresh networks are poor tests: batch normalisation with its first statistics does nothing, layer scales of 1e-6 and
zero-initialised gains switch whole branches off, and an importer that forgot them would go unnoticed. `make` gives
every batch normalisation random statistics, weights and biases around what its own activations are, and every other
parameter that is constant random values, so that each branch counts in the output.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
import warnings
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

EXPORTERS: dict[str, int] = {"torchscript": 17, "dynamo": 20}
"""Exporter of PyTorch -> the opset that it is asked for."""
IMAGES = 4
CLASSES = 100


@dataclass(frozen=True)
class Architecture:
    """One network to export.

    Attributes:
        library: "torchvision" or "timm".
        model: its name there.
        side: height and width of the image in pixels, small where the network allows it.
        options: more arguments for the library.
    """

    library: str
    model: str
    side: int = 64
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name for tables and files."""
        return f"{self.library}-{self.model}"

    @property
    def dynamic(self) -> bool:
        """Whether it is exported a second time with a free batch: about a third are, the same ones every time."""
        return sum(self.model.encode()) % 3 == 0


def _torchvision(side: int, models: str, **options: Any) -> list[Architecture]:
    return [Architecture("torchvision", model, side, options) for model in models.split()]


def _timm(side: int, models: str, **options: Any) -> list[Architecture]:
    return [Architecture("timm", model, side, options) for model in models.split()]


ARCHITECTURES: tuple[Architecture, ...] = (
    *_torchvision(64, "resnet18 mobilenet_v2 shufflenet_v2_x0_5 efficientnet_b0 regnet_y_400mf mnasnet0_5"),
    *_torchvision(64, "densenet121 squeezenet1_1 mobilenet_v3_small convnext_tiny swin_t swin_v2_t"),
    *_torchvision(64, "vit_b_16", image_size=64),
    *_torchvision(64, "lraspp_mobilenet_v3_large deeplabv3_mobilenet_v3_large", num_classes=21),
    *_timm(64, "resnet26d seresnext26t_32x4d ecaresnet26t res2net50_14w_8s resnest14d skresnet18 resnetblur18"),
    *_timm(64, "dla46x_c hrnet_w18_small vovnet39a dpn48b xception41 tf_efficientnet_b0 mixnet_s tf_mixnet_s"),
    *_timm(64, "mobilenetv1_100 mobilenetv4_conv_small fbnetc_100 ghostnet_050 ghostnetv2_100 ghostnetv3_050"),
    *_timm(64, "rexnet_100 regnetx_002 regnetz_b16 repvgg_a0 eca_nfnet_l0 nf_resnet26 cspresnet50 efficientnet_lite0"),
    *_timm(64, "convnextv2_atto convnext_atto convmixer_1024_20_ks9_p14 hardcorenas_a lcnet_050 selecsls42b tresnet_m"),
    *_timm(64, "mixer_s32_224 gmlp_ti16_224 resmlp_12_224 vit_tiny_patch16_224 deit_tiny_distilled_patch16_224"
               " eva02_tiny_patch14_224 beit_base_patch16_224 xcit_nano_12_p16_224 cait_xxs24_224", img_size=64),
    *_timm(224, "levit_128s pit_ti_224 visformer_tiny tnt_s_legacy_patch16_224 efficientformer_l1 efficientvit_m0"),
    *_timm(64, "twins_svt_small mobilevit_xxs mobilevitv2_050 edgenext_xx_small efficientvit_b0 fastvit_t8"),
    *_timm(64, "poolformer_s12 caformer_s18 davit_tiny focalnet_tiny_srf starnet_s1 repvit_m0_9 inception_next_atto"),
    *_timm(64, "mambaout_femto nextvit_small pvt_v2_b0 hgnetv2_b0 ese_vovnet19b_slim_dw rdnet_tiny sequencer2d_s"),
    *_timm(128, "swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 coatnet_nano_rw_224 maxvit_pico_rw_256"
                " maxxvit_rmlp_nano_rw_256 vitamin_small_224", img_size=128),
    *_timm(240, "crossvit_9_240"),
    *_timm(224, "tiny_vit_5m_224 gcvit_xxtiny hiera_tiny_224 volo_d1_224 nest_tiny coat_tiny"),
    *_timm(256, "lambda_resnet26t halonet26t botnet26t_256 eca_botnext26ts_256 sehalonet33ts"),
    # The rest of torchvision's families, and larger relatives.
    *_torchvision(64, "resnet50 resnext50_32x4d wide_resnet50_2 mobilenet_v3_large regnet_x_400mf efficientnet_v2_s"),
    *_torchvision(224, "alexnet vgg11_bn vgg16"),  # TorchScript exports their pooling for whole factors of 7 only
    *_torchvision(64, "googlenet", aux_logits=False, init_weights=False),
    *_torchvision(96, "inception_v3", aux_logits=False, init_weights=False),
    *_torchvision(64, "fcn_resnet50 deeplabv3_resnet50", num_classes=21),
    *_torchvision(224, "maxvit_t"),
    # More of timm.
    *_timm(64, "regnety_002 regnetz_005 densenetblur121d resnetaa34d gcresnext26ts resnext26ts resnetv2_50x1_bit"),
    *_timm(64, "nf_regnet_b0 cs3darknet_s cspdarknet53 mobileone_s0 repghostnet_050 spnasnet_100 semnasnet_050"),
    *_timm(64, "efficientnet_cc_b0_4e tf_mobilenetv3_small_075 tf_efficientnetv2_b0 fbnetv3_b tinynet_e gernet_s"),
    *_timm(64, "mobilenetv4_hybrid_medium convnext_zepto_rms fasternet_t0 shvit_s1 poolformerv2_s12 convformer_s18"),
    *_timm(96, "inception_resnet_v2 legacy_xception"),
    *_timm(64, "deit3_small_patch16_224 vit_relpos_small_patch16_224 vit_small_patch16_rope_224"
               " vit_small_patch16_dinov3 flexivit_small gmixer_12_224 vit_tiny_r_s16_p8_224", img_size=64),
    *_timm(160, "inception_v4"),
    *_timm(224, "levit_conv_128s convit_tiny efficientformerv2_s0 swiftformer_xs mvitv2_tiny"),
    *_timm(64, "twins_pcpvt_small dm_nfnet_f0 csatv2 iformer_t lowformer_b0 efficientvim_m1"),
    *_timm(128, "swinv2_cr_tiny_224 coatnet_rmlp_nano_rw_224", img_size=128),
)  # fmt: skip


def libraries() -> dict[str, ModuleType]:
    """Import torchvision and timm, whichever are there."""
    from benchmarks.stock_onnx2torch import load_torchvision

    load_torchvision()  # what lets torchvision be imported beside a PyTorch that it was not built for
    found = {}
    for name in ("torchvision", "timm"):
        with contextlib.suppress(ImportError):
            found[name] = importlib.import_module(name)
    return found


def make(architecture: Architecture, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """Return a network in eval mode with random weights, frozen, and images [4, 3, side, side]."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {"num_classes": CLASSES, **architecture.options}
    if architecture.library == "torchvision":
        models = libraries()["torchvision"].models
        if "deeplabv3" in architecture.model or "fcn" in architecture.model or "lraspp" in architecture.model:
            options = {"weights_backbone": None, **options}
        model: nn.Module = models.get_model(architecture.model, weights=None, **options)
    else:
        model = libraries()["timm"].create_model(architecture.model, pretrained=False, **options)
    images = make_images(architecture.side)
    randomise(model, images)
    return _Tensors(model).eval() if isinstance(_answer(model, images), dict) else model, images


def make_images(side: int) -> torch.Tensor:
    """Return images that differ in everything: color, large forms and noise; noise alone looks the same deep down."""
    forms = functional.interpolate(torch.randn(IMAGES, 3, 4, 4), size=(side, side), mode="bilinear")
    return torch.randn(IMAGES, 3, 1, 1) + forms + 0.5 * torch.randn(IMAGES, 3, side, side)


def randomise(model: nn.Module, images: torch.Tensor) -> None:
    """Give every normalisation, scale and gain values that change the result.

    Batch normalisations take the statistics of what comes to them, one after the other, and are moved away from them,
    so that the signal neither vanishes nor grows over any depth.
    """
    model.eval().requires_grad_(False)
    for parameter in model.parameters():
        first = parameter.flatten()[:1]
        if bool((parameter == first).all()):
            if abs(float(first)) > 0.5:
                parameter.mul_(torch.empty_like(parameter).uniform_(0.5, 1.5))
            elif float(first) != 0:  # a layer scale such as 1e-6
                parameter.uniform_(0.1, 0.5)
            else:
                parameter.normal_(0.0, 0.1)
        elif parameter.dim() > 1:
            gain = float(parameter.std()) * parameter[0].numel() ** 0.5
            if gain < 0.2:  # a head at a thousandth of its size
                parameter.div_(gain)
    hooks = [
        module.register_forward_pre_hook(_calibrate) for module in model.modules() if isinstance(module, _BatchNorm)
    ]
    _answer(model, images)
    for hook in hooks:
        hook.remove()


def _calibrate(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
    """Set a batch normalisation by what first comes to it, some way off."""
    assert isinstance(module, _BatchNorm)
    mean, variance = module.running_mean, module.running_var
    assert mean is not None
    assert variance is not None
    if module in _calibrated:
        return
    _calibrated.add(module)
    values = arguments[0].transpose(0, 1).flatten(1)
    mean.copy_(values.mean(1))
    variance.copy_(values.var(1))
    typical = variance.mean()
    mean.add_(torch.randn_like(mean) * 0.3 * (variance + 0.01 * typical).sqrt())
    # No channel is nearly constant: dividing it by its small deviation would enlarge mere rounding.
    variance.mul_(torch.empty_like(variance).uniform_(0.5, 1.5)).add_(0.05 * typical)
    if module.affine:
        module.weight.uniform_(0.5, 1.5)
        module.bias.normal_(0.3, 0.3)


_calibrated: weakref.WeakSet[nn.Module] = weakref.WeakSet()


class _Tensors(nn.Module):
    """A segmentation network whose result is a tuple instead of a dictionary."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.model(images).values())


def _answer(model: nn.Module, images: torch.Tensor) -> Any:
    with torch.no_grad():
        return model(images)


def reference(model: nn.Module, images: torch.Tensor) -> list[np.ndarray]:
    """Return the network's outputs for each image alone, one array for each output, [images, ...].

    Raises:
        ValueError: if an output is not finite, or is nearly the same for all images, so that agreement would say
            nothing.
    """
    rows = [_tensors(_answer(model, image)) for image in images.split(1)]
    outputs = [torch.cat(values).numpy() for values in zip(*rows, strict=True)]
    for output in outputs:
        if not np.isfinite(output).all():
            raise ValueError("an output is not finite")
        if np.abs(output - output[:1]).max() < 0.01 * np.abs(output).max():
            raise ValueError("an output hardly depends on the image")
    return outputs


def rounding(model: nn.Module, image: torch.Tensor) -> float:
    """Return how far PyTorch's own single precision is off for one image, relative to the largest magnitude.

    What an importer differs by means nothing below this.
    """
    exact = copy.deepcopy(model).double()
    worst = 0.0
    for mine, true in zip(_tensors(_answer(model, image)), _tensors(_answer(exact, image.double())), strict=True):
        worst = max(worst, float((mine.double() - true).abs().max() / true.abs().max()))
    return worst


def _tensors(answer: Any) -> tuple[torch.Tensor, ...]:
    return (answer,) if isinstance(answer, torch.Tensor) else tuple(answer)


def export(model: nn.Module, images: torch.Tensor, exporter: str, path: Path, *, dynamic: bool = False) -> None:
    """Export a network with one of PyTorch's exporters, for one image or for any number of them.

    TorchScript knows neither PyTorch's fused encoder layer nor the fused attention of some networks of timm; its users
    switch both off.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    example = (images[: 2 if dynamic else 1],)  # a batch of 1 is never made free by the exporter
    if exporter == "torchscript":
        axes = {"image": {0: "batch"}} if dynamic else None
        with quiet(), _without_fused_attention(model) as plain:
            torch.onnx.export(
                plain, example, str(path), dynamo=False, opset_version=EXPORTERS[exporter], input_names=["image"],
                dynamic_axes=axes,
            )  # fmt: skip
        return
    shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
    with quiet():
        torch.onnx.export(
            model, example, str(path), dynamo=True, opset_version=EXPORTERS[exporter], dynamic_shapes=shapes,
            verbose=False,
        )  # fmt: skip


@contextlib.contextmanager
def _without_fused_attention(model: nn.Module) -> Iterator[nn.Module]:
    names = ("EvaAttention", "AttentionRope")
    if any(type(module).__name__ in names for module in model.modules()):
        model = copy.deepcopy(model)
        for module in model.modules():
            if type(module).__name__ in names:
                module.fused_attn = False
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield model
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters from printing; what goes wrong is raised."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)

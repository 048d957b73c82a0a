"""The project's Attention U-Nets in PyTorch, layer for layer, and their training step, for the benchmarks."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from segmentation.network.encoders import ENCODER_DEPTH, LITE


def norm(channels: int) -> nn.BatchNorm2d:
    """As Keras: epsilon 1e-3, momentum 0.9 (PyTorch counts it the other way round)."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.1)


def block(inputs: int, filters: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, filters, 3, padding=1, bias=False), norm(filters), nn.ReLU(inplace=True),
        nn.Conv2d(filters, filters, 3, padding=1, bias=False), norm(filters), nn.ReLU(inplace=True),
    )  # fmt: skip


def double(x: torch.Tensor) -> torch.Tensor:
    """Bilinear upsampling by 2."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class Gate(nn.Module):
    """Additive attention gate on the grid of the gating signal."""

    def __init__(self, channels: int, gating: int):
        super().__init__()
        inter = max(channels // 2, 1)
        self.theta = nn.Conv2d(channels, inter, 2, stride=2, bias=False)
        self.phi = nn.Conv2d(gating, inter, 1)
        self.psi = nn.Conv2d(inter, 1, 1)
        self.w = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), norm(channels))

    def forward(self, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """Gated skip."""
        alpha = torch.sigmoid(self.psi(F.relu(self.theta(x) + self.phi(g))))
        return self.w(x * double(alpha))


class Bottleneck(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection, and a residual where the shapes allow."""

    def __init__(self, inputs: int, filters: int, kernel: int, stride: int, expand: int):
        super().__init__()
        wide = inputs * expand
        before = [nn.Conv2d(inputs, wide, 1, bias=False), norm(wide), nn.ReLU6(inplace=True)] if expand > 1 else []
        self.layers = nn.Sequential(
            *before,
            nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False), norm(wide),
            nn.ReLU6(inplace=True), nn.Conv2d(wide, filters, 1, bias=False), norm(filters),
        )  # fmt: skip
        self.residual = stride == 1 and inputs == filters

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, H, W) -> (B, filters, H / stride, W / stride)."""
        return x + self.layers(x) if self.residual else self.layers(x)


class EfficientNetLite(nn.Module):
    """`efficientnet_lite` of segmentation/network/encoders.py: four skips, and the features of stride 32."""

    def __init__(self, name: str):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, 2, 1, bias=False), norm(32), nn.ReLU6(inplace=True))
        inputs, parts, part = 32, [], []
        stages = zip(*LITE[name], (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1), strict=True)
        for stage, (filters, repeats, kernel, stride) in enumerate(stages, start=1):
            if stage in (2, 3, 4, 6):
                parts, part = [*parts, nn.Sequential(*part)], []
            for repeat in range(repeats):
                part.append(Bottleneck(inputs, filters, kernel, 1 if repeat else stride, 1 if stage == 1 else 6))
                inputs = filters
        self.parts = nn.ModuleList([*parts, nn.Sequential(*part)])
        self.widths = [part[-1].layers[-1].num_features for part in self.parts]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Grey values 0 to 255 -> features, finest first."""
        x, features = self.stem(x / 128 - 127 / 128), []
        for part in self.parts:
            x = part(x)
            features.append(x)
        return features


class ConvolutionEncoder(nn.Module):
    """The paper's own encoder: double convolutions between poolings."""

    def __init__(self, widths: list[int]):
        super().__init__()
        self.blocks = nn.ModuleList([block(a, b) for a, b in zip([1, *widths[:-1]], widths, strict=True)])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Grey values 0 to 255 -> features, finest first."""
        x, features = x / 255, []
        for k, layer in enumerate(self.blocks):
            x = layer(F.max_pool2d(x, 2) if k else x)
            features.append(x)
        return features


class AttentionUNet(nn.Module):
    """`build_attention_unet`; (B, 1, H, W) grey values 0 to 255 -> logits."""

    def __init__(self, base_filters: int, encoder: str = "none", depth: int = 4):
        super().__init__()
        depth = depth if encoder == "none" else ENCODER_DEPTH
        widths = [base_filters * 2**k for k in range(depth + 1)]
        self.finest = None if encoder == "none" else block(1, base_filters)
        self.encoder = ConvolutionEncoder(widths) if encoder == "none" else EfficientNetLite(encoder)
        skips = widths if encoder == "none" else [base_filters, *self.encoder.widths]
        self.gating = nn.Sequential(nn.Conv2d(skips[-1], widths[-1], 1, bias=False), norm(widths[-1]), nn.ReLU())
        self.gates = nn.ModuleList([Gate(skips[k], widths[k + 1]) for k in range(1, depth)])
        coarser = [*widths[1:depth], skips[-1]]
        self.ups = nn.ModuleList([nn.Conv2d(coarser[k], skips[k], 1, bias=False) for k in range(depth)])
        self.decoders = nn.ModuleList([block(2 * skips[k], widths[k]) for k in range(depth)])
        self.lesion = nn.Conv2d(base_filters, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, (B, 1, H, W)."""
        skips = [self.finest(x / 255)] if self.finest else []
        skips += self.encoder(x)
        x = skips.pop()
        g = self.gating(x)
        for k in reversed(range(len(self.decoders))):
            skip = self.gates[k - 1](skips[k], g) if k else skips[0]
            g = x = self.decoders[k](torch.cat([skip, double(self.ups[k](x))], dim=1))
        return self.lesion(x)


def build_monai() -> nn.Module:
    """MONAI's AttentionUnet, in the size that its documentation uses."""
    from monai.networks.nets import AttentionUnet

    return AttentionUnet(2, 1, 1, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2))


class Trainer:
    """The project's loss, optimizer, clipping and weight averaging around a PyTorch network.

    `rate` gives the learning rate of a step. Images and masks are (B, 1, H, W) float32.
    """

    def __init__(self, model: nn.Module, rate: Callable[[int], float], momentum: float, bfloat16: bool, compiled: bool):
        self.model = model.to(memory_format=torch.channels_last)
        # Batch statistics are kept as they are, as Keras does; only trained weights are averaged.
        ema = torch.optim.swa_utils.get_ema_multi_avg_fn
        self.average = torch.optim.swa_utils.AveragedModel(
            self.model,
            multi_avg_fn=lambda means, values, t: ema(min(momentum, float((1 + t) / (10 + t))))(means, values, t),
        )
        self.forward = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1.0, weight_decay=1e-4)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, rate)
        self.bfloat16 = bfloat16

    def train(self, images: torch.Tensor, masks: torch.Tensor) -> float:
        """One step; returns the loss."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            logits = self.forward(images.to(memory_format=torch.channels_last))
        logits = logits.float()
        p = torch.sigmoid(logits)
        dice = (2 * (p * masks).sum((1, 2, 3)) + 1) / ((p + masks).sum((1, 2, 3)) + 1)
        loss = F.binary_cross_entropy_with_logits(logits, masks) + (1 - dice).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)  # of all: PyTorch's own habit, and its fastest
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.model)
        return float(loss.detach())

    @torch.inference_mode()
    def predict(self, images: torch.Tensor, averaged: bool = False) -> torch.Tensor:
        """Probabilities, (B, 1, H, W)."""
        network = self.average.module if averaged else self.forward
        network.eval()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            return torch.sigmoid(network(images.to(memory_format=torch.channels_last)).float())

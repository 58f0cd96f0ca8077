"""Networks in PyTorch: the twins of the Flax networks in `experiments/models`, by the same names.

Inputs are `(N, C, *spatial)`, and classes are the second axis of what comes out, as PyTorch's losses take them.
"""

import functools
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from experiments.peers.torch_classifiers import BasicBlock, Bottleneck, ConvNeXt, ResNet, efficientnet_b0, mobilenetv2


class UNet(nn.Module):
    """Logits of pixels (Ronneberger et al. 2015), its 3x3 convolutions padded, so that maps keep their size."""

    def __init__(self, *, classes: int = 2) -> None:
        super().__init__()
        widths = (64, 128, 256, 512, 1024)
        levels = list(pairwise(widths))
        self.down = nn.ModuleList(_double_conv(i, o) for i, o in pairwise((3, *widths)))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(wide, narrow, 2, 2) for narrow, wide in levels)
        self.up = nn.ModuleList(_double_conv(wide, narrow) for narrow, wide in levels)
        self.head = nn.Conv2d(64, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skipped = []
        for level, conv in enumerate(self.down):
            x = conv(F.max_pool2d(x, 2) if level else x)
            skipped.append(x)
        x = skipped.pop()
        for grow, conv in zip(reversed(self.grow), reversed(self.up), strict=True):
            x = conv(torch.cat([skipped.pop(), grow(x)], 1))
        return self.head(x)


def _double_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
    )


class GatedLayer(nn.Module):
    """A dilated causal convolution, one half of it gated by the other; gives on a residual and puts out a skip."""

    def __init__(self, channels: int, skip: int, *, dilation: int) -> None:
        super().__init__()
        self.reach = dilation
        self.dilated = nn.Conv1d(channels, 2 * channels, 2, dilation=dilation)
        self.residual = nn.Conv1d(channels, channels, 1)
        self.skip = nn.Conv1d(channels, skip, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        signal, gate = self.dilated(F.pad(x, (self.reach, 0))).chunk(2, 1)
        y = torch.tanh(signal) * torch.sigmoid(gate)
        return x + self.residual(y), self.skip(y)


class WaveNet(nn.Module):
    """Logits of what follows each sample of a waveform (van den Oord et al. 2016)."""

    def __init__(
        self, *, channels: int = 64, skip: int = 128, stacks: int = 2, depth: int = 10, classes: int = 256
    ) -> None:
        super().__init__()
        dilations = [2**level for level in range(depth)] * stacks
        self.stem = nn.Conv1d(1, channels, 2)
        self.layers = nn.ModuleList(GatedLayer(channels, skip, dilation=d) for d in dilations)
        self.hidden = nn.Conv1d(skip, skip, 1)
        self.head = nn.Conv1d(skip, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(F.pad(x, (1, 0)))
        skips = []
        for layer in self.layers:
            x, skip = layer(x)
            skips.append(skip)
        total = functools.reduce(torch.add, skips)
        return self.head(F.relu(self.hidden(F.relu(total))))


class Generator(nn.Sequential):
    """Images in -1..1 of latent points, the generator of DCGAN (Radford et al. 2015)."""

    def __init__(self) -> None:
        widths = (100, 512, 256, 128, 64)
        layers: list[nn.Module] = []
        for level, (inputs, outputs) in enumerate(pairwise(widths)):
            stride, padding = (2, 1) if level else (1, 0)
            grow = nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False)
            layers += [grow, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        super().__init__(*layers, nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1, bias=False), nn.Tanh())


class SmallCNN(nn.Module):
    """Logits of images."""

    def __init__(self, *, classes: int = 10) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 64, 3, padding=1)
        self.third = nn.Conv2d(64, 128, 3, padding=1)
        self.head = nn.Linear(128, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.max_pool2d(F.relu(self.second(x)), 2)
        return self.head(F.relu(self.third(x)).mean((2, 3)))


class Ensemble(nn.Module):
    """Logits `(members, N, classes)`: small CNNs with parameters of their own, stacked, on the same images."""

    def __init__(self, *, members: int = 8) -> None:
        super().__init__()
        stacked, _ = torch.func.stack_module_state([SmallCNN() for _ in range(members)])
        self.stacked = nn.ParameterDict({name.replace(".", "/"): p.detach() for name, p in stacked.items()})
        self._member = (SmallCNN().to("meta"),)  # its layers alone are used; within a tuple it is no part of this one

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def one(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
            return torch.func.functional_call(self._member[0], parameters, (x,))

        return torch.func.vmap(one)({name.replace("/", "."): p for name, p in self.stacked.items()})


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: ResNet(BasicBlock, (2, 2, 2, 2), 64),
    "resnet50": lambda: ResNet(Bottleneck, (3, 4, 6, 3), 256),
    "resnext50": lambda: ResNet(functools.partial(Bottleneck, narrowing=2, groups=32), (3, 4, 6, 3), 256),
    "mobilenetv2": mobilenetv2,
    "efficientnet_b0": efficientnet_b0,
    "convnext_t": lambda: ConvNeXt((3, 3, 9, 3), (96, 192, 384, 768)),
    "resnet3d": lambda: ResNet(functools.partial(BasicBlock, axes=3), (2, 2, 2, 2), 64, axes=3, classes=400),
    "unet": UNet,
    "wavenet": WaveNet,
    "dcgan": Generator,
    "ensemble": Ensemble,
    "dpsgd": SmallCNN,
}

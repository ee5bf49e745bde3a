"""Small classifiers whose features judge pictures like those that they were trained on."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

#: ImageNet's mean and deviation of images in [0, 1]; the CIFAR-10 networks were trained with them.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: What red, green and blue add to grey (ITU-R BT.601), as where Pillow makes grey of RGB.
_GREY = (0.299, 0.587, 0.114)


class CifarResNet(nn.Module):
    """The ResNet of 6n + 2 layers for CIFAR-10 (He et al., 2016, Sec. 4.2), shortcuts without weights.

    uint8 images (B, 3, H, W), resized to 32×32, to features (B, 64) and logits (B, 10).
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(_Block(16, 16) for _ in range(blocks)))
        self.layer2 = nn.Sequential(_Block(16, 32), *(_Block(32, 32) for _ in range(blocks - 1)))
        self.layer3 = nn.Sequential(_Block(32, 64), *(_Block(64, 64) for _ in range(blocks - 1)))
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = images.float() / 255
        if x.shape[-2:] != (32, 32):
            x = F.interpolate(x, (32, 32), mode="bilinear", antialias=True)
        x = (x - x.new_tensor(_MEAN)[:, None, None]) / x.new_tensor(_DEVIATION)[:, None, None]
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        features = x.mean((2, 3))
        return features, self.linear(features)


class LeNet(nn.Module):
    """LeNet-5 for MNIST (LeCun et al., 1998) with max pooling and rectifiers.

    uint8 images (B, 3, H, W), in grey, resized to 32×32, white strokes on black, to features (B, 84) and logits
    (B, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        self.convnet = nn.ModuleDict({"c1": nn.Conv2d(1, 6, 5), "c3": nn.Conv2d(6, 16, 5), "c5": nn.Conv2d(16, 120, 5)})
        self.fc = nn.ModuleDict({"f6": nn.Linear(120, 84), "f7": nn.Linear(84, 10)})

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = images.float() / 255
        x = (x * x.new_tensor(_GREY)[:, None, None]).sum(1, keepdim=True)
        if x.shape[-2:] != (32, 32):
            x = F.interpolate(x, (32, 32), mode="bilinear", antialias=True)
        for name in ("c1", "c3"):
            x = F.max_pool2d(F.relu(self.convnet[name](x)), 2)
        x = F.relu(self.convnet["c5"](x)).flatten(1)
        features = F.relu(self.fc["f6"](x))
        return features, self.fc["f7"](features)


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.stride = 1 if in_channels == out_channels else 2
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride == 2:  # every second pixel, and new channels of zeros on both sides
            more = (y.shape[1] - x.shape[1]) // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, more, more))
        return F.relu(x + y)

"""Folded batch normalization: equal features, and refusal of other orders of computation."""

import pytest
import torch
from torch import nn

from amodal.encoders import PackagedImageConfig, SmallCNNConfig, TimmConfig, TorchvisionConfig
from amodal.encoders.batch_norm_folding import folded

CONFIGS = {
    "small_cnn": SmallCNNConfig(size=32),
    "timm": TimmConfig(name="resnet10t", weights=False, size=32),
    "torchvision": TorchvisionConfig(name="resnet18"),
    "packaged": PackagedImageConfig(
        name=("efficientnet-lite0", "efficientnet-lite1"), size=64, last_stages=1
    ),
}


def with_statistics(encoder: nn.Module) -> nn.Module:
    """Running statistics and scales as after some training, instead of zeros and ones."""
    generator = torch.Generator().manual_seed(0)
    for norm in encoder.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(std=0.3, generator=generator)
            norm.running_var.uniform_(0.5, 2.0, generator=generator)
            norm.weight.data.uniform_(0.5, 2.0, generator=generator)
            norm.bias.data.normal_(std=0.3, generator=generator)
    return encoder.eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_features_are_equal_with_few_normalizations_left(name):
    torch.manual_seed(0)
    encoder = with_statistics(CONFIGS[name].build(pretrained=False))
    size = CONFIGS[name].preprocessor().size
    pixels = {"pixel_values": torch.randn(3, 3, size, size)}
    quicker = folded(encoder, pixels)
    assert quicker is not encoder
    before, after = (
        sum(isinstance(layer, nn.BatchNorm2d) for layer in m.modules()) for m in (encoder, quicker)
    )
    assert after < before / 4  # all but those after a stem of several layers
    with torch.no_grad():
        expected = encoder(**pixels)[0]
        torch.testing.assert_close(
            quicker(**pixels)[0], expected, rtol=0, atol=3e-4 * expected.abs().max().item()
        )


def test_the_encoder_itself_stays_as_it_is():
    encoder = with_statistics(SmallCNNConfig(size=32).build())
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    folded(encoder, {"pixel_values": torch.randn(2, 3, 32, 32)})
    after = encoder.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


class NormFirst(nn.Module):
    """Computes in another order than its layers are listed in."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.convolution(self.norm(pixel_values)).flatten(2).transpose(1, 2), None


def test_another_order_of_computation_is_left_alone():
    torch.manual_seed(0)
    encoder = with_statistics(NormFirst())
    assert folded(encoder, {"pixel_values": torch.randn(2, 3, 8, 8)}) is encoder


def test_a_network_without_batch_normalization_is_left_alone():
    encoder = SmallCNNConfig(size=32, norm="group").build().eval()
    assert folded(encoder, {"pixel_values": torch.randn(2, 3, 32, 32)}) is encoder

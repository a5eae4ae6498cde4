import re

import pytest
import torch
import torch.nn.functional as F

from image_classifier.backbones.efficientnet_lite import (
    EMBEDDING,
    Block,
    EfficientNetLite,
    SameConvolution,
    load_weights,
)


def stored_weights(network: EfficientNetLite) -> dict[str, torch.Tensor]:
    """Random weights and statistics of batch norms, in the names of efficientnet-lite-pytorch."""
    generator = torch.Generator().manual_seed(0)
    stored = {}
    for name, module in network.named_modules():
        if not isinstance(module, SameConvolution):
            continue
        convolution = "_" + re.sub(r"\.(?=[a-z])", "._", name)
        own = name.rpartition(".")[2]
        norm = {
            "conv_stem": "_bn0",
            "conv_head": "_bn1",
            "expand_conv": "_bn0",
            "depthwise_conv": "_bn1",
            "project_conv": "_bn2",
        }[own]
        prefix = convolution.removesuffix(f"_{own}") + norm
        stored[f"{convolution}.weight"] = torch.randn(module.weight.shape, generator=generator) * 0.3
        count = module.weight.shape[0]
        stored[f"{prefix}.weight"] = torch.rand(count, generator=generator) + 0.5
        stored[f"{prefix}.bias"] = torch.randn(count, generator=generator) * 0.1
        stored[f"{prefix}.running_mean"] = torch.randn(count, generator=generator) * 0.1
        stored[f"{prefix}.running_var"] = torch.rand(count, generator=generator) + 0.5
    return stored


def test_the_stages_have_the_published_channels_and_blocks():
    for width, depth, blocks, channels in ((1.0, 1.0, 16, 320), (1.1, 1.2, 21, 352)):
        network = EfficientNetLite(width=width, depth=depth)
        assert len(network.blocks) == blocks
        assert network.conv_head.in_channels == channels
        with torch.inference_mode():
            assert network(torch.zeros(1, 3, 64, 96)).shape == (1, EMBEDDING, 2, 3)


@pytest.mark.parametrize("side", [7, 8, 9, 224])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (5, 1), (5, 2)])
def test_padding_gives_each_output_the_ceiling_of_the_side_by_the_stride(side, kernel, stride):
    layer = SameConvolution(1, 1, kernel, stride)
    before, after = layer.padding_of(side)
    assert 0 <= after - before <= 1
    with torch.inference_mode():
        assert layer(torch.zeros(1, 1, side, side)).shape[-1] == -(-side // stride)


def test_a_folded_convolution_equals_the_convolution_and_its_batch_norm():
    network = EfficientNetLite(width=1.0, depth=1.0)
    stored = stored_weights(network)
    load_weights(network, stored)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        plain = F.conv2d(F.pad(images, (0, 1, 0, 1)), stored["_conv_stem.weight"], stride=2)
        parts = (stored[f"_bn0.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        expected = F.batch_norm(plain, *parts, eps=1e-3)
        torch.testing.assert_close(network.conv_stem(images), expected, atol=1e-4, rtol=1e-4)


def test_the_network_can_be_entered_at_the_beginning_of_each_stage():
    network = EfficientNetLite(width=1.0, depth=1.0).eval()
    assert network.stage_starts == (0, 1, 3, 5, 8, 11, 15)
    with torch.inference_mode():
        entering = network.stem(torch.randn(1, 3, 64, 64))
        all_maps = network.maps_from(0, entering)
        assert [each.size(1) for each in all_maps] == [16, 24, 40, 80, 112, 192, 320, 1280]
        for number, start in enumerate(network.stage_starts[1:]):
            maps = network.maps_from(start, all_maps[number])
            torch.testing.assert_close(maps, all_maps[number + 1 :])


def test_only_blocks_that_keep_the_shape_have_a_shortcut():
    blocks = EfficientNetLite(width=1.0, depth=1.0).blocks
    assert [number for number, block in enumerate(blocks) if isinstance(block, Block) and block.has_shortcut] == [
        2, 4, 6, 7, 9, 10, 12, 13, 14,
    ]  # fmt: skip


def test_weights_of_another_architecture_are_refused_with_the_tensor():
    network = EfficientNetLite(width=1.0, depth=1.0)
    stored = stored_weights(network)
    with pytest.raises(ValueError, match=r"the tensor _conv_head\.weight has the shape \[1280, 352, 1, 1\]"):
        load_weights(network, {**stored, "_conv_head.weight": torch.zeros(1280, 352, 1, 1)})
    del stored["_blocks.3._bn1.running_var"]
    with pytest.raises(ValueError, match=r"the tensor _blocks\.3\._bn1\.running_var is missing"):
        load_weights(network, stored)

"""Video encoders: shapes, order of the frames, gradients, and what a saved one computes."""

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from amodal.encoders import (
    FrameEncoderConfig,
    HuggingFaceVideoConfig,
    ImagePreprocessor,
    SmallCNNConfig,
    TorchvisionVideoConfig,
    VideoPreprocessor,
)
from amodal.modalities.specification import NamedEncoders
from amodal.models.joint_embedding import Architecture, JointEmbedding, build_joint_embedding
from amodal.projection import LinearConfig

CNN = SmallCNNConfig(size=32, widths=(8, 16))
LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LAYERS |= {"intermediate_size": 32, "image_size": 32, "num_frames": 4}
CONFIGS = {
    "frames": FrameEncoderConfig(frame=CNN, frames=4),
    "projected": FrameEncoderConfig(frame=CNN, frames=4, width=24),
    "pooled": FrameEncoderConfig(frame=CNN, frames=4, layers=0),
    "torchvision": TorchvisionVideoConfig(weights=None, frames=4, size=32),
    "videomae": HuggingFaceVideoConfig(
        architecture={"model_type": "videomae", "patch_size": 16, "tubelet_size": 2, **LAYERS}
    ),
    "timesformer": HuggingFaceVideoConfig(
        architecture={"model_type": "timesformer", "patch_size": 16, **LAYERS}
    ),
    "vivit": HuggingFaceVideoConfig(
        architecture={"model_type": "vivit", "tubelet_size": [2, 16, 16], **LAYERS}
    ),
}
ORDERED = [name for name in CONFIGS if name != "pooled"]


def clips(count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, 3, 32, 32, generator=generator)


def pooled(encoder, pixels):
    return encoder(pixel_values=pixels)[0].mean(dim=1)


@pytest.fixture(params=CONFIGS, scope="module")
def built(request):
    torch.manual_seed(0)
    return CONFIGS[request.param].build().eval()


def test_tokens_have_the_width_of_the_encoder(built):
    tokens, keep = built(pixel_values=clips())
    assert tokens.shape[0] == 2
    assert tokens.shape[2] == built.width
    assert keep is None


def test_a_clip_does_not_depend_on_its_batch(built):
    x = clips(3)
    torch.testing.assert_close(pooled(built, x)[:1], pooled(built, x[:1]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ORDERED)
def test_the_order_of_the_frames_matters(name):
    torch.manual_seed(0)
    encoder = CONFIGS[name].build().eval()
    with torch.no_grad():
        for parameter in encoder.parameters():  # some models start with positions of zero
            parameter += 0.05 * torch.randn_like(parameter)
    x = clips(1)
    assert (pooled(encoder, x) - pooled(encoder, x.flip(1))).abs().max() > 1e-4


def test_without_layers_over_time_the_order_does_not_matter():
    torch.manual_seed(0)
    encoder = CONFIGS["pooled"].build().eval()
    x = clips(1)
    torch.testing.assert_close(pooled(encoder, x), pooled(encoder, x.flip(1)))


def test_every_trained_parameter_gets_a_gradient(built):
    built(pixel_values=clips())[0].square().sum().backward()
    without = [n for n, p in built.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    built.zero_grad()


def test_a_resolved_configuration_builds_the_same_encoder(built):
    values = TypeAdapter(NamedEncoders).validate_python(
        {"video": built.config.model_dump(mode="json")}
    )
    again = values["video"].build(pretrained=False)
    again.load_state_dict(built.state_dict())
    again.eval()
    torch.testing.assert_close(pooled(again, clips()), pooled(built, clips()), rtol=0, atol=0)


def test_a_frozen_image_encoder_leaves_the_layers_over_time_trained():
    config = FrameEncoderConfig(frame=SmallCNNConfig(size=32, widths=(8, 16), freeze="all"))
    encoder = config.build().train()
    trained = {name.split(".")[0] for name, p in encoder.named_parameters() if p.requires_grad}
    assert trained == {"frame_pooling", "layers", "position", "norm"}
    assert not encoder.frame.training


def test_layer_groups_hold_every_parameter_but_norms_and_pooling():
    encoder = CONFIGS["frames"].build()
    groups = encoder.layer_groups()
    assert len(groups) == 2 + 2  # stem, a stage, two layers
    assert any(part is encoder.position for part in groups[2])


def test_a_rate_of_the_frames_alone_is_refused():
    with pytest.raises(ValidationError, match="give `learning_rate_scale` beside `frame`"):
        FrameEncoderConfig(frame=SmallCNNConfig(learning_rate_scale=0.1))


def test_heads_have_to_divide_the_width():
    with pytest.raises(ValueError, match="heads: 3 does not divide the width 16"):
        FrameEncoderConfig(frame=CNN, heads=3).build()


def test_a_video_model_takes_its_own_number_of_frames():
    config = CONFIGS["vivit"].model_copy(update={"frames": 9})
    with pytest.raises(ValueError, match="frames: 9; vivit was made for 4"):
        config.build()


def test_an_image_model_is_no_video_model():
    vit = {"model_type": "vit", "hidden_size": 16, "num_attention_heads": 2}
    with pytest.raises(ValueError, match="vit: no video model"):
        HuggingFaceVideoConfig(architecture=vit, frames=4).build()


def test_the_preprocessor_resizes_every_frame_and_survives_saving(tmp_path):
    prepare = VideoPreprocessor(ImagePreprocessor(16, (0.5,) * 3, (0.5,) * 3), 2, 30.0)
    clip = np.stack([np.zeros((20, 40, 3), np.uint8), np.full((20, 40, 3), 255, np.uint8)])
    pixels = prepare([clip, clip[::-1]])["pixel_values"]
    assert pixels.shape == (2, 2, 3, 16, 16)
    assert pixels[:, :, 0, 0, 0].tolist() == [[-1, 1], [1, -1]]
    prepare.save(tmp_path)
    again = VideoPreprocessor.load(tmp_path)
    assert (again.frames, again.segment_seconds, again.size) == (2, 30.0, 16)
    torch.testing.assert_close(again([clip])["pixel_values"], pixels[:1])


def test_a_joint_embedding_with_video_is_saved_and_opened(tmp_path):
    architecture = Architecture(
        encoders={"video": CONFIGS["frames"]}, projection=LinearConfig(dim=8)
    )
    model = build_joint_embedding(architecture)
    clip = np.random.default_rng(0).integers(0, 256, (9, 40, 50, 3), np.uint8)
    model.save_pretrained(tmp_path)
    again = JointEmbedding.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again.encode(video=[clip]), model.encode(video=[clip]))

"""Frozen encoders may give the features of several stages or layers, joined."""

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from amodal.encoders import HuggingFaceTextConfig, PackagedImageConfig, TimmConfig

BERT = {
    "model_type": "bert",
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 30,
}


def test_the_last_stages_of_a_network_are_averaged_to_its_final_grid():
    config = TimmConfig(name="resnet10t", weights=False, size=64, last_stages=2)
    encoder = config.build().eval()
    pixels = torch.randn(2, 3, 64, 64)
    tokens, keep = encoder(pixels)
    final, maps = encoder.model.forward_intermediates(pixels)
    expected = torch.cat([final, *(adaptive_avg_pool2d(m, 2) for m in maps[-2:])], dim=1)
    assert keep is None
    assert tokens.shape == (2, 4, encoder.width)
    torch.testing.assert_close(tokens, expected.flatten(2).transpose(1, 2))
    torch.testing.assert_close(tokens.mean(1)[:, : final.shape[1]], final.mean((2, 3)))


def test_no_stages_give_the_final_features_alone():
    encoder = PackagedImageConfig(name="efficientnet-lite0", size=64).build(pretrained=False)
    joined = PackagedImageConfig(name="efficientnet-lite0", size=64, last_stages=2)
    assert encoder.width == 1280
    assert joined.build(pretrained=False).width == 1280 + 112 + 320


@pytest.mark.parametrize(
    ("name", "message"),
    [("vit_tiny_patch16_224", "tokens instead of feature maps"), ("resnet10t", "5 stages")],
)
def test_a_model_without_such_stages_is_refused(name, message):
    with pytest.raises(ValueError, match=f"last_stages: 9; {name} has {message}"):
        TimmConfig(name=name, weights=False, last_stages=9).build()


def test_the_last_layers_of_a_text_model_are_joined():
    config = HuggingFaceTextConfig(architecture=BERT, last_layers=2, max_length=8)
    encoder = config.build().eval()
    ids, mask = torch.tensor([[3, 4, 5, 0]]), torch.tensor([[1, 1, 1, 0]])
    tokens, keep = encoder(input_ids=ids, attention_mask=mask)
    states = encoder.model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    assert encoder.width == 16
    torch.testing.assert_close(tokens[..., :8], states.hidden_states[2])
    torch.testing.assert_close(tokens[..., 8:], states.last_hidden_state)
    assert keep.tolist() == [[True, True, True, False]]
    with pytest.raises(ValueError, match="last_layers: 5; the model has 4, embeddings included"):
        HuggingFaceTextConfig(architecture=BERT, last_layers=5, max_length=8).build()

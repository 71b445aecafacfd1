"""The same weights give the same logits as in `transformers`, there and back."""

import jax
import numpy as np
import pytest

from grpojax import models, policy


torch = pytest.importorskip("torch", reason="The peer to agree with is `transformers`.")
transformers = pytest.importorskip(
    "transformers", reason="The peer to agree with is `transformers`."
)

SIZES = dict(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
)
LLAMA3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
FAMILIES = {
    "llama": ("Llama", dict(rope_theta=300.0)),
    "llama-head-dim": ("Llama", dict(head_dim=6)),
    "llama3": ("Llama", dict(rope_theta=100.0, rope_scaling=LLAMA3)),
    "mistral": ("Mistral", dict(head_dim=10, sliding_window=None)),
    "mistral-odd": ("Mistral", dict(hidden_size=30, head_dim=8, sliding_window=None)),
    "qwen2": ("Qwen2", dict(rope_theta=1e6)),
    "qwen2-head-dim": ("Qwen2", dict(head_dim=12)),
    "qwen3": ("Qwen3", dict(head_dim=16)),
}
TOKENS = np.random.default_rng(0).integers(0, 61, 40)


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def peer(family, tied):
    """A random model of `transformers`, norms and biases random as well."""
    name, changes = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(
        **(SIZES | changes), tie_word_embeddings=tied
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.normal_(1.0, 0.3)
            else:
                weight.normal_(0.0, weight.shape[1] ** -0.5)
    return model


def peer_logits(model):
    with torch.no_grad():
        return model(torch.tensor(TOKENS)[None]).logits[0].float().numpy()


@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_equal_there_and_back(tmp_path, family, tied):
    model = peer(family, tied)
    model.save_pretrained(tmp_path / "theirs")
    expected = peer_logits(model)
    loaded = models.load(tmp_path / "theirs")
    there = np.asarray(policy.logits(loaded, TOKENS))
    np.testing.assert_allclose(there, expected, rtol=0, atol=1e-4)

    models.save(loaded, tmp_path / "ours")
    again, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(report.values())
    np.testing.assert_allclose(peer_logits(again), expected, rtol=0, atol=1e-6)
    assert again.config.tie_word_embeddings is tied
    assert again.dtype == torch.float32


def test_shards_and_bfloat16_are_read(tmp_path, family):
    peer(family, tied=False).bfloat16().save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    loaded = models.load(tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype("bfloat16")}
    # The same weights, computed in float32 on both sides. (`bfloat16()` above rounded
    # the peer's rotary frequencies as well, so the peer is loaded anew.)
    exact = models.load(tmp_path, dtype="float32")
    there = np.asarray(policy.logits(exact, TOKENS))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32
    )
    np.testing.assert_allclose(there, peer_logits(model), rtol=0, atol=1e-4)


def test_what_is_saved_in_bfloat16_is_loaded_in_bfloat16(tmp_path):
    peer("qwen3", tied=True).bfloat16().save_pretrained(tmp_path / "theirs")
    models.save(models.load(tmp_path / "theirs"), tmp_path / "ours")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert again.dtype == torch.bfloat16

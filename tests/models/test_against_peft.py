"""The same adapter on the same weights gives the same logits as in PEFT."""

import warnings

import jax.random as jr
import numpy as np
import pytest

from grpojax import models, policy
from tests.helpers import learned


torch = pytest.importorskip("torch", reason="The peer to agree with is `peft`.")
transformers = pytest.importorskip("transformers", reason="The peer is `peft`.")
peft = pytest.importorskip("peft", reason="The peer to agree with is `peft`.")

SIZES = dict(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=12,
    max_position_embeddings=128,
    tie_word_embeddings=False,
)
FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TOKENS = np.random.default_rng(0).integers(0, 61, 40)


@pytest.fixture(params=FAMILIES)
def model(request, tmp_path):
    """A random model in a directory of its own."""
    changes = dict(sliding_window=None) if request.param == "Mistral" else {}
    config = getattr(transformers, f"{request.param}Config")(**SIZES, **changes)
    torch.manual_seed(0)
    model = getattr(transformers, f"{request.param}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(0.0, weight.shape[1] ** -0.5)
    model.save_pretrained(tmp_path / "base")
    return model


def peer_logits(model):
    with torch.no_grad():
        return model(torch.tensor(TOKENS)[None]).logits[0].numpy()


@pytest.mark.parametrize(
    "settings",
    [
        dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
        dict(r=3, lora_alpha=5, target_modules=EVERY, use_rslora=True),
        dict(r=1, lora_alpha=16, target_modules="all-linear", lora_dropout=0.1),
        dict(
            r=4,
            lora_alpha=8,
            target_modules=EVERY,
            rank_pattern={"q_proj": 2, r"layers\.1\.mlp.up_proj": 6},
            alpha_pattern={r"layers\.[02]\..*v_proj": 3, "down_proj": 20},
            use_rslora=True,
        ),
        dict(
            r=4,
            lora_alpha=8,
            target_modules=["q_proj", "gate_proj"],
            layers_to_transform=[0, 2],
        ),
        dict(
            r=2,
            lora_alpha=32,
            target_modules=r".*layers\.[12]\.(mlp\.down|self_attn\.k)_proj",
        ),
    ],
    ids=["two", "rslora", "all-linear", "patterns", "layers", "regex"],
)
def test_an_adapter_of_peft_is_the_same_here(model, tmp_path, settings):
    without = peer_logits(model)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(**settings, task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0.0, 0.1)
    adapted.eval().save_pretrained(tmp_path / "adapter")
    expected = peer_logits(adapted)
    assert abs(expected - without).max() > 0.1

    base = models.load(tmp_path / "base")
    np.testing.assert_allclose(policy.logits(base, TOKENS), without, rtol=0, atol=1e-4)
    mine = models.load_adapters(base, tmp_path / "adapter")
    np.testing.assert_allclose(policy.logits(mine, TOKENS), expected, rtol=0, atol=1e-4)
    merged = models.merge(mine)
    models.save(merged, tmp_path / "merged")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(peer_logits(again), expected, rtol=0, atol=1e-4)
    theirs = adapted.merge_and_unload()
    np.testing.assert_allclose(peer_logits(again), peer_logits(theirs), atol=1e-4)


@pytest.mark.parametrize("projections", [models.PROJECTIONS, ("query", "down")])
def test_an_adapter_of_ours_loads_in_peft(model, tmp_path, projections):
    base = models.load(tmp_path / "base")
    adapted = models.lora(base, projections, rank=5, alpha=10, key=jr.key(0))
    adapted = learned(adapted, size=0.1)
    folder = str(tmp_path / "base")
    models.save_adapters(adapted, tmp_path / "adapter", base=folder)
    expected = np.asarray(policy.logits(adapted, TOKENS))
    assert abs(expected - peer_logits(model)).max() > 0.1
    with warnings.catch_warnings():
        # PEFT warns of tensors that are missing or that it has no place for.
        warnings.simplefilter("error", UserWarning)
        loaded = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
        named = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    for theirs in (loaded, named.eval()):
        np.testing.assert_allclose(peer_logits(theirs), expected, rtol=0, atol=1e-4)
    state = peft.get_peft_model_state_dict(loaded)
    assert len(state) == 2 * 3 * len(projections)

    # There, saved by PEFT, and back: no bit changes.
    loaded.save_pretrained(tmp_path / "again")
    again = models.load_adapters(base, tmp_path / "again")
    for name in projections:
        mine, back = vars(adapted.layers)[name], vars(again.layers)[name]
        np.testing.assert_array_equal(mine.a, back.a)
        np.testing.assert_array_equal(mine.b, back.b)
        assert mine.alpha == back.alpha

"""What keeps a peer from running is said in words."""

import sys

import pytest
from executorch_llama import why_not
from peers.catalog import timed
from tiny_models import gemma, llama, qwen


def names_and_config(model):
    return model.config.to_dict(), list(model.state_dict())


@pytest.mark.parametrize("model", [llama, qwen])
def test_models_that_executorchs_export_holds(model):
    assert why_not(*names_and_config(model())) is None


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            gemma,
            "ExecuTorch's Llama export has no place for the model's weights post_feedforward_layernorm,"
            " pre_feedforward_layernorm",
        ),
        (
            lambda: llama(attention_bias=True),
            "ExecuTorch's Llama export has no place for the model's weights self_attn.o_proj.bias",
        ),
        (
            lambda: llama(hidden_act="gelu"),
            "hidden_act 'gelu' is not passed on to ExecuTorch's Llama export here, only 'silu'",
        ),
        (
            lambda: llama(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
            "rope_type 'linear' is not passed on to ExecuTorch's Llama export here, only 'default'",
        ),
    ],
    ids=["norms", "bias", "activation", "rotary"],
)
def test_models_that_it_does_not_hold(make, reason):
    assert why_not(*names_and_config(make())) == reason


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("print('✓ lower to executorch 1.5 s')", None),
        ("raise SystemExit('no room')", "no room"),
        ("raise SystemExit(3)", "ended with 3"),
        (
            "import os, signal; print('step 2', flush=True); os.kill(os.getpid(), signal.SIGKILL)",
            "was ended by SIGKILL after: step 2",
        ),
    ],
)
def test_how_a_command_ended(code, error, tmp_path):
    done = timed((sys.executable, "-X", "utf8", "-c", code), tmp_path / "log")
    assert done.error == error
    assert done.stages == ({} if error else {"lower to executorch": 1.5})
    assert done.seconds > 0 and done.peak_bytes > 2**20

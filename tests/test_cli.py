"""The command line: what it answers, how fast, and one clear message for everything that can be wrong."""

import json
import os
import resource
import shutil
import subprocess
import sys

import pytest
from tiny_jobs import BOTH, QEXPORT, RULES, ended, recipe_text, started, write_recipe

from exporter import __version__
from exporter.plan import QuantPlan
from exporter.recipe import recipe_json_schema
from exporter.tasks import TASKS

HEAVY = ("torch", "numpy", "rich", "yaml", "onnx", "onnxruntime", "transformers", "executorch", "jinja2")


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path):
    """A checkpoint of one's own, to do harm to."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    return folder


def left(folder):
    """What lies in the folder, besides what the tests put there."""
    return {path.name for path in folder.iterdir()} - {"recipe.yaml", "text.txt", "model", "__pycache__"}


def refused(qexport, recipe, *options):
    """The message of a job that stops before it has written anything."""
    done = qexport("--recipe", recipe, "--out", recipe.parent / "out", *options)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert left(recipe.parent) == set()
    return done.err.removeprefix("plan …\n")


# --- what it answers


def test_help_loads_nothing_and_is_quick():
    program = (
        "import sys; sys.argv = ['qexport', '--help']\n"
        "from exporter.cli import main\n"
        "try: main()\n"
        "finally: print('LOADED', *sorted(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.partition("LOADED")[2].split())
    assert "click" in loaded and not loaded.intersection(HEAVY)


def test_help_takes_little_time():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run([QEXPORT, "--help"], capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # CPU time, not wall time: a busy machine does not change it much
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3
    assert out.startswith("Usage: qexport [OPTIONS] [COMMAND] [ARGS]...\n\n  One recipe, one set of integers")
    for word in (
        "plan",
        "inspect",
        "verify",
        "schema",
        "--recipe",
        "--out",
        "--force",
        "--dry-run",
        "--debug",
    ):
        assert word in out


def test_no_arguments_are_a_cry_for_help(qexport):
    assert qexport() == qexport("--help")
    assert qexport().code == 0


def test_version(qexport):
    assert qexport("--version") == (0, f"qexport, version {__version__}\n", "")


def test_schema(qexport):
    done = qexport("schema")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == recipe_json_schema()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan"], "name a recipe: qexport plan --recipe recipes/mixed_int4.yaml"),
        (["--out", "x"], "--out needs a recipe: qexport --recipe recipes/mixed_int4.yaml"),
        (
            ["--recipe", "r.yaml", "plan"],
            "--recipe before plan would have no effect; see qexport plan --help for what goes behind it",
        ),
        (
            ["--force", "inspect", "x"],
            "--force before inspect would have no effect; see qexport inspect --help for what goes behind it",
        ),
        (["inspect"], "Missing argument 'ARTIFACT'."),
        (["inspect", "a", "--task", "x"], "No such option '--task'."),
    ],
)
def test_usage(qexport, arguments, message):
    done = qexport(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Usage: qexport") and done.err.rstrip().endswith(message), done.err


@pytest.mark.parametrize("typed", ["plam", "--recipes"])
def test_a_typing_error(qexport, typed):
    """click's own words, which differ between its versions."""
    done = qexport(typed, "x")
    assert (done.code, done.out) == (2, "")
    assert f"'{typed}'" in done.err and f"'{typed.replace('plam', 'plan').removesuffix('s')}'" in done.err


# --- plan


def test_plan_reads_no_weights(checkpoint, tmp_path, qexport):
    (checkpoint / "model.safetensors").unlink()
    recipe = write_recipe(tmp_path, checkpoint)
    done = qexport("plan", "--recipe", recipe, "--json")
    assert (done.code, done.err) == (0, "")
    plan = QuantPlan.from_json(json.loads(done.out))
    assert plan.to_json() == json.loads(done.out)
    assert {layer.scheme.bits for layer in plan.layers} == {4, 8}
    assert [forecast.target.backend for forecast in plan.forecasts] == ["onnxruntime", "executorch"]

    table = qexport("plan", "--recipe", recipe)
    assert (table.code, table.err) == (0, "")
    assert "0.1 MB forecast, 22% of 0.4 MB in float32" in table.out
    assert qexport("--recipe", recipe, "--dry-run") == table
    unfolded = qexport("plan", "--recipe", recipe, "--all")
    assert unfolded.code == 0
    assert "×" in table.out and "×" not in unfolded.out  # a row for each
    assert unfolded.out.count("q_proj") == 2 and "q_proj" not in table.out
    assert left(tmp_path) == set()


def test_plan_of_another_model(checkpoint, tiny_checkpoint, tmp_path, qexport):
    recipe = write_recipe(tmp_path, "/no/such/folder")
    done = qexport("plan", "--recipe", recipe, "--model", tiny_checkpoint, "--json")
    assert done.code == 0 and len(json.loads(done.out)["layers"]) == 16


def test_a_reader_that_leaves():
    """As `| head` does: no traceback, no `Exception ignored`."""
    done = subprocess.run(["bash", "-c", f"'{QEXPORT}' schema | true"], capture_output=True, text=True)
    assert done.stderr == ""


# --- bad input: the model


def test_missing_weights(checkpoint, tmp_path, qexport):
    (checkpoint / "model.safetensors").unlink()
    assert refused(qexport, write_recipe(tmp_path, checkpoint)) == (
        f"error: {checkpoint}: there are no weights; expected model.safetensors, model.safetensors.index.json or "
        "pytorch_model.bin beside config.json\n"
    )


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (0, "header too small"),
        (5, "header too small"),
        (300, "invalid header length"),
        (200_000, "incomplete metadata, file not fully covered"),
    ],
)
def test_truncated_weights(checkpoint, tmp_path, qexport, size, reason):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    message = refused(qexport, write_recipe(tmp_path, checkpoint))
    assert message.startswith(f"error: {path}: damaged or truncated safetensors file of {size:,} bytes (")
    assert reason in message and message.endswith("); fetch it again\n") and message.count("\n") == 1


def test_a_pickle_that_is_more_than_tensors(checkpoint, tmp_path, qexport):
    """Loaded with weights_only, so the code inside never runs."""
    import torch

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    (checkpoint / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Evil()}, checkpoint / "pytorch_model.bin")
    message = refused(qexport, write_recipe(tmp_path, checkpoint))
    assert message.startswith(
        f"error: {checkpoint / 'pytorch_model.bin'}: cannot be read with weights_only=True ("
    )
    assert message.endswith("It is truncated, or holds more than tensors; save it again as safetensors\n")
    assert message.count("\n") == 1


def test_a_weight_that_is_not_finite(checkpoint, tmp_path, qexport):
    from safetensors.torch import load_file, save_file

    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    assert refused(qexport, write_recipe(tmp_path, checkpoint)).splitlines()[-1] == (
        "error: layer model.layers.1.mlp.up_proj: weight[3, 5] is nan; the checkpoint cannot be quantised"
    )


def test_a_tensor_is_missing(checkpoint, tmp_path, qexport):
    from safetensors.torch import load_file, save_file

    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, {"format": "pt"})
    assert refused(qexport, write_recipe(tmp_path, checkpoint)).splitlines()[-1] == (
        f"error: {checkpoint}: the weights hold no tensor 'model.layers.1.mlp.up_proj.weight'"
    )


def test_the_weights_are_another_models(checkpoint, tmp_path, qexport):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "intermediate_size": 256}))
    assert refused(qexport, write_recipe(tmp_path, checkpoint)).splitlines()[-1] == (
        f"error: {checkpoint}: model.layers.0.mlp.gate_proj.weight has shape (128, 64), config.json asks for (256, 64)"
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model_type": "nonsense"}', '{"model_type": "vit"}'])
def test_a_bad_configuration(checkpoint, tmp_path, qexport, text):
    (checkpoint / "config.json").write_text(text)
    message = refused(qexport, write_recipe(tmp_path, checkpoint))
    assert message.startswith(f"error: {checkpoint}") and "should not have happened" not in message
    assert message.count("\n") == 1, message


def test_no_tokenizer(checkpoint, tmp_path, qexport):
    (checkpoint / "tokenizer.json").unlink()
    (checkpoint / "tokenizer_config.json").unlink()
    message = refused(qexport, write_recipe(tmp_path, checkpoint)).splitlines()
    assert message[-1].startswith(f"error: {checkpoint}: no tokenizer can be read (")
    assert message[-1].endswith("); tokenizer.json must lie beside config.json")
    assert [line.split(" ")[0] for line in message[:-1]] == ["✓", "memory"]  # before any work


def test_no_model(tmp_path, qexport):
    (tmp_path / "model").mkdir()
    recipe = write_recipe(tmp_path, "model")
    assert refused(qexport, recipe) == (
        f"error: model source 'model': folder {tmp_path / 'model'} has no config.json; it must hold a Hugging Face "
        "checkpoint (config.json, tokenizer files and *.safetensors)\n"
    )
    assert refused(qexport, recipe, "--model", "no/such") == (
        f"error: model source 'no/such': there is no {tmp_path / 'no/such'} and no/such. A source is a local folder or "
        ".gguf file, hf:ORG/NAME@REV, package:DIST/FILE or python:module:function\n"
    )
    assert refused(qexport, recipe, "--model", "package:no-such-dist/model.gguf") == (
        "error: model source 'package:no-such-dist/model.gguf': the package 'no-such-dist' is not installed in this "
        "environment. Install it (pip install no-such-dist) or set another source: a local folder or "
        ".gguf file, hf:ORG/NAME@REV, package:DIST/FILE or python:module:function\n"
    )
    assert refused(qexport, recipe, "--model", "hf:name") == (
        "error: model source 'hf:name': write hf:ORG/NAME or hf:ORG/NAME@REVISION\n"
    )


# --- bad input: the recipe


def test_no_recipe(tmp_path, qexport):
    write_recipe(tmp_path, "model")
    done = qexport("--recipe", tmp_path / "recipes.yaml")
    assert done == (
        2,
        "",
        f"error: {tmp_path / 'recipes.yaml'}: there is no such file; beside it: recipe.yaml; did you mean "
        "'recipe.yaml'?\n",
    )


def test_a_misspelt_layer_stops_in_a_second(tiny_checkpoint, tmp_path):
    """The second time, when the list of layers is known, torch is not even loaded."""
    rules = RULES.replace("**.embed_tokens", "**.embed_token")
    recipe = write_recipe(tmp_path, tiny_checkpoint, rules=rules)
    cache = tmp_path / "model"
    first = ended(started("--recipe", recipe, "--out", tmp_path / "out", cache=cache))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    second = ended(started("--recipe", recipe, "--out", tmp_path / "out", cache=cache))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    assert first == second
    assert (second.code, second.out) == (2, "")
    assert second.err == (
        f"plan …\nerror: {recipe}:9:5: rule 2 (**.embed_token, line 9) matches no layer: no layer has 'embed_token' "
        "after '**'; did you mean '**.embed_tokens'?\n"
    )
    assert left(tmp_path) == set()


def test_a_recipe_for_another_architecture(tiny_checkpoint, tmp_path, qexport):
    rules = '  - {match: "transformer.h.*.attn.c_attn", scheme: w8}\n  - {match: "**", scheme: w4}\n'
    recipe = write_recipe(tmp_path, tiny_checkpoint, rules=rules)
    message = refused(qexport, recipe)
    assert message == (
        f"error: {recipe}:8:5: no rule that names a layer matches this model (LlamaForCausalLM, 2 layers); the first "
        "is 'transformer.h.*.attn.c_attn': the recipe is for another architecture; this one's layers are "
        "model.embed_tokens, model.layers.{0,1}.self_attn.{q,k,v,o}_proj, "
        "model.layers.{0,1}.mlp.{gate,up,down}_proj, lm_head\n"
    )


def test_not_utf8(tmp_path, qexport):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(recipe_text("model").encode().replace(b"sensitive", b"f\xfcr"))
    assert refused(qexport, recipe) == (
        f"error: {recipe}:8:75: not UTF-8: byte 0xfc at offset {recipe.read_bytes().index(0xFC)}; "
        "save the file as UTF-8\n"
    )


def test_ten_thousand_rules(tiny_checkpoint, tmp_path, qexport):
    rules = "".join(f'  - {{match: "model.layers.{n}.**", scheme: w8}}\n' for n in range(10_000))
    recipe = write_recipe(tmp_path, tiny_checkpoint, rules=rules + '  - {match: "**", scheme: w4}\n')
    lines = refused(qexport, recipe).splitlines()
    assert len(lines) == 21
    assert lines[0].startswith(f"error: {recipe}:10:")  # the model has blocks 0 and 1
    assert lines[-1] == "and 9,978 more"


def test_yaml_bomb(tmp_path, qexport):
    levels = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'x'}]" for n in range(12))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(levels)
    assert (
        refused(qexport, recipe) == f"error: {recipe}:1:5: anchor '&a0': anchors are not part of a recipe\n"
    )


def test_unknown_words(tmp_path, qexport):
    recipe = write_recipe(tmp_path, "model", task="text-generatoin", targets="[{backend: onnx-runtime}]")
    assert refused(qexport, recipe) == (
        f"error: {recipe}:3:32: model.task is text 'text-generatoin'; allowed: {', '.join(TASKS)}; did you mean "
        "'text-generation'?\n"
        f"{recipe}:11:21: targets[0].backend is text 'onnx-runtime'; allowed: onnxruntime, executorch; did you mean "
        "'onnxruntime'?\n"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file {text} is empty; it must hold text"),
        (b" \n\t", "the file {text} is empty; it must hold text"),
        (
            b"fa\xe7ade",
            "{text} cannot be read as text: 'utf-8' codec can't decode byte 0xe7 in position 2: invalid "
            "continuation byte",
        ),
    ],
)
def test_a_text_that_nothing_can_be_measured_on(tiny_checkpoint, tmp_path, qexport, content, message):
    """Seen before the minutes of work that lead up to it."""
    recipe = write_recipe(tmp_path, tiny_checkpoint)
    (tmp_path / "text.txt").write_bytes(content)
    expected = message.format(text=tmp_path / "text.txt")
    assert refused(qexport, recipe) == f"error: {recipe}:12:105: parity.text[0]: {expected}\n"


def test_a_scheme_that_a_target_has_no_kernel_for(tiny_checkpoint, tmp_path, qexport):
    recipe = tmp_path / "recipe.yaml"
    (tmp_path / "text.txt").write_text("words")
    text = recipe_text(tiny_checkpoint, targets=BOTH)
    recipe.write_text(text.replace("group: 32,", "group: 32, symmetric: false,"))
    message = refused(qexport, recipe)
    assert message.startswith(f"error: {recipe}:") and "executorch" in message and "symmetric" in message


# --- what goes wrong inside


def test_a_surprise_is_one_line_and_debug_shows_it_all(tiny_checkpoint, tmp_path, qexport, monkeypatch):
    import exporter.pipeline

    def surprise(*arguments):
        raise ZeroDivisionError("by zero\nand more")

    monkeypatch.setattr(exporter.pipeline, "plan_recipe", surprise)
    recipe = write_recipe(tmp_path, tiny_checkpoint)
    assert refused(qexport, recipe) == (
        "error: this should not have happened (ZeroDivisionError: by zero); nothing was written. "
        "Run again with --debug and report what it prints\n"
    )
    with pytest.raises(ZeroDivisionError):
        qexport("--recipe", recipe, "--debug")


def test_out_of_memory(tiny_checkpoint, tmp_path, qexport, monkeypatch):
    import exporter.pipeline

    def big(*arguments):
        raise MemoryError

    monkeypatch.setattr(exporter.pipeline, "plan_recipe", big)
    assert refused(qexport, write_recipe(tmp_path, tiny_checkpoint)) == (
        "error: out of memory: close other programs, or use a machine with more; nothing was written\n"
    )


def test_an_interrupt_in_a_destructor_is_not_lost():
    """Python prints and forgets what a destructor raises; the job must end nevertheless."""
    program = """
import time
from exporter import cli
class Fragile:
    def __del__(self):
        raise KeyboardInterrupt
def work():
    Fragile()
    time.sleep(60)
cli.cli.main = lambda *args, **options: work()
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (2, "interrupted: nothing was written\n")

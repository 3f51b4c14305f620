"""One GGUF file -> a folder in Hugging Face's layout, kept in the cache under the file's sha256.

Names, permutations and configuration come from transformers' own GGUF reader; the tensors are
dequantised to float32, one after the other, which from then on is THE reference model.
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
from typing import TYPE_CHECKING, Any

from exporter.errors import SourceError
from exporter.models.safetensors_file import SafetensorsFile

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

_CONVERTER = "2"  # raise when the conversion's result changes, so that old cache entries are left behind
_LONG = 4096  # elements; no list that a configuration needs is that long, every vocabulary is
_ROWS_AT_ONCE = 4 << 20  # numbers; dequantising takes some four times their bytes on the way


def metadata_folder(path: Path, sha256: str, cache: Path) -> Path:
    """config.json and tokenizer files of a GGUF file, without touching its tensors.

    Raises SourceError for a file that is truncated, not GGUF, or of an architecture unknown to transformers.
    """
    target = cache / "gguf" / f"{sha256[:32]}-{_CONVERTER}"
    if (target / "config.json").is_file():
        return target
    with _new_folder(target) as draft, _as_source_error(path), _quick_reader():
        from transformers import AutoConfig, AutoTokenizer

        config = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        _split_digits(path, tokenizer)
        tokenizer.save_pretrained(draft)
        written = config.to_diff_dict()
        written.pop("quantization_config", None)
        written["architectures"] = written.get("architectures") or [_causal_class(config)]
        written["dtype"] = "float32"
        for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
            written.setdefault(token, getattr(tokenizer, token))
        (draft / "config.json").write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")
    return target


def _split_digits(path: Path, tokenizer: Any) -> None:
    """What transformers leaves out: SmolLM's tokenizer cuts a text at each digit before anything else.

    `tokenizer.ggml.pre` names how; llama.cpp has the expressions of each name in src/llama-vocab.cpp.
    """
    import gguf

    field = gguf.GGUFReader(str(path)).fields.get("tokenizer.ggml.pre")
    if field is None or field.contents() != "smollm":
        return
    from tokenizers import pre_tokenizers

    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)


def convert_weights(path: Path, folder: Path) -> None:
    """Write model.safetensors (float32) beside the config.json that metadata_folder made.

    Memory stays near the largest tensor. Raises SourceError for weights that are missing or do not fit.
    """
    target = folder / "model.safetensors"
    if target.is_file():
        return
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    draft = folder / f".model.safetensors.{os.getpid()}"
    try:
        with _as_source_error(path), _quick_reader():
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(folder)))
            shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
            with SafetensorsFile(draft, shapes) as file:
                _fill(file, path, model)
        if file.missing:
            raise SourceError(f"{path}: {len(file.missing)} weights are missing, first {file.missing[0]!r}")
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def _fill(file: SafetensorsFile, path: Path, model: torch.nn.Module) -> None:
    """Every tensor of the GGUF file through transformers' own mapping.

    The loop of load_gguf_checkpoint (transformers/modeling_gguf_pytorch_utils.py), which keeps all tensors
    in memory; here `tensors`, which some of its processors write to directly, is the file.
    """
    import gguf
    import transformers.modeling_gguf_pytorch_utils as reading

    found = reading.load_gguf_checkpoint(str(path), return_tensors=False)
    reader = gguf.GGUFReader(str(path))
    architecture = reading.read_field(reader, "general.architecture")[0]
    kind = reading.TENSOR_PROCESSORS.get(architecture, reading.TensorProcessor)
    processor = kind(config=found["config"])
    names = reading.get_gguf_hf_weights_map(model, processor)
    found["tensors"] = file
    for tensor in reader.tensors:
        values, own_name, _ = processor.process(
            weights=_dequantized(tensor), name=tensor.name, tensor_key_mapping=names, parsed_parameters=found
        )
        name = names.get(own_name)
        if name in file.shapes:
            file[name] = values
        del values  # before the next one is made


def _dequantized(tensor: Any) -> NDArray[Any]:
    """The float values of a gguf ReaderTensor, in its shape; a few rows at a time."""
    import numpy as np
    from gguf import dequantize

    shape = tuple(int(size) for size in reversed(tensor.shape))
    if len(shape) < 2:
        return np.asarray(dequantize(tensor.data, tensor.tensor_type))
    values = np.empty(shape, np.float32)
    step = max(1, _ROWS_AT_ONCE // (tensor.n_elements // shape[0]))
    for start in range(0, shape[0], step):
        values[start : start + step] = dequantize(tensor.data[start : start + step], tensor.tensor_type)
    return values


@contextlib.contextmanager
def _quick_reader() -> Iterator[None]:
    """Inside, gguf.GGUFReader walks over a vocabulary instead of making objects of it.

    transformers reads a file three times and takes no more than the length of the vocabulary from this
    reader (its tokenizers come from another one): 40 s and 500 MB for 262,144 tokens otherwise.
    """
    import gguf

    original = gguf.GGUFReader
    gguf.GGUFReader = _reader_class(original)
    try:
        yield
    finally:
        gguf.GGUFReader = original


def _reader_class(base: Any) -> Any:
    """A gguf.GGUFReader whose long arrays repeat their first element."""
    import numpy as np
    from gguf import GGUFValueType

    class Reader(base):  # type: ignore[misc]
        @property
        def data(self) -> Any:
            return self._bytes

        @data.setter
        def data(self, mapped: Any) -> None:
            self._bytes = np.asarray(mapped)  # slicing a memmap object costs ten times as much

        def _get_field_parts(self, offset: int, raw_type: int) -> tuple[int, list[Any], list[int], list[Any]]:
            if raw_type != GGUFValueType.ARRAY or (count := int(self._get(offset + 4, np.uint64)[0])) < _LONG:
                return tuple(super()._get_field_parts(offset, raw_type))
            kind, start = int(self._get(offset, np.uint32)[0]), offset + 12
            size, parts, index, types = super()._get_field_parts(start, kind)
            if kind == GGUFValueType.STRING:
                end = start
                for _ in range(count):
                    end += 8 + int.from_bytes(self._bytes[end : end + 8].tobytes(), "little")
                size = end - start
            else:
                size *= count
            return 12 + size, parts, index * count, [GGUFValueType.ARRAY, *types]

    return Reader


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

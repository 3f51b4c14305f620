"""Third-party libraries print bars and warnings of their own; a person sees ours, unless --debug."""

from __future__ import annotations

import logging
import os
import warnings

_LOUD = ("torchao", "torch", "transformers", "torch.onnx", "onnxscript", "executorch", "root", "flatbuffers")


def hush() -> None:
    """Silence the libraries' progress bars, log lines below ERROR and Python warnings.

    Call before they are imported: some read these settings only then.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)

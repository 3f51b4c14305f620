"""Third-party libraries print bars and warnings of their own; a person sees ours, unless --debug."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_hushed = False


def hush() -> None:
    """Silence the libraries' progress bars, log lines below ERROR and Python warnings.

    Call before they are imported: some read these settings only then.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    global _hushed
    _hushed = True


@contextmanager
def native_output_held(descriptor: int = 2) -> Iterator[None]:
    """Hold back what native libraries write to stderr, or to stdout (1); it is shown after all when the block
    fails."""
    if not _hushed:
        yield
        return
    (sys.stderr if descriptor == 2 else sys.stdout).flush()
    with tempfile.TemporaryFile() as held:
        saved = os.dup(descriptor)
        os.dup2(held.fileno(), descriptor)
        try:
            yield
        except BaseException:
            os.dup2(saved, descriptor)
            held.seek(0)
            os.write(descriptor, held.read())
            raise
        finally:
            os.dup2(saved, descriptor)
            os.close(saved)

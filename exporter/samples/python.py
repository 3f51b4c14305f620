"""Samples from a function of the user's own code: tuples of tensors, in the order it gives them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.errors import QexportError, first_line

if TYPE_CHECKING:
    import torch


def python_samples(source: str, most: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """The first `most` tuples of `module:function`, which is called without arguments; one in memory at a time.

    Raises QexportError for a function that is not there or fails, and for an item that is no tuple of tensors.
    """
    import torch

    function = _function(source)
    try:
        items: Iterable[Any] = iter(function())
    except Exception as problem:
        raise _failed(source, "calling it", problem) from problem
    for number in range(1, most + 1):
        try:
            item = next(items)  # type: ignore[call-overload]
        except StopIteration:
            if number == 1:
                raise QexportError(
                    f"calibration.python {source}: gives no sample; yield tuples of tensors"
                ) from None
            return
        except Exception as problem:
            raise _failed(source, f"item {number}", problem) from problem
        if not isinstance(item, tuple) or not item:
            kind = "an empty tuple" if item == () else f"a {type(item).__name__}"
            raise QexportError(
                f"calibration.python {source}: item {number} is {kind}; "
                "each item is a tuple of tensors, the model's inputs in their order"
            )
        for index, value in enumerate(item):
            if not isinstance(value, torch.Tensor):
                raise QexportError(
                    f"calibration.python {source}: item {number}, input {index} is a {type(value).__name__}; "
                    "it must be a torch.Tensor"
                )
        yield item


def code_sha256(source: str) -> str | None:
    """Hash of the file of `module` or `module:function`, not of what that imports; None where there is none."""
    search_here()
    try:
        spec = importlib.util.find_spec(source.partition(":")[0])
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


def search_here() -> None:
    """As `python -m` does, so that the user's own file is found."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def _function(source: str) -> Callable[[], Any]:
    module_name, _, name = source.partition(":")
    search_here()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as problem:
        raise QexportError(
            f"calibration.python {source}: no module {problem.name!r} in {os.getcwd()} or the environment; "
            "run qexport in the folder that holds it, or install it"
        ) from problem
    except Exception as problem:
        raise _failed(source, f"importing {module_name}", problem) from problem
    function = getattr(module, name, None)
    if not callable(function):
        raise QexportError(f"calibration.python {source}: module {module_name} has no function {name!r}")
    found: Callable[[], Any] = function
    return found


def _failed(source: str, what: str, problem: Exception) -> QexportError:
    return QexportError(
        f"calibration.python {source}: {what} failed, {type(problem).__name__}: {first_line(problem)}; "
        "--debug shows where"
    )

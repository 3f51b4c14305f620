"""How a written graph names the layers whose integers it holds.

A quantised node is called after its layer's module path; one that holds several layers, rows below
rows, after all of them. Its metadata says how many rows each has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from exporter.errors import ArtifactError

if TYPE_CHECKING:
    import onnx

LAYER_KEY = "qexport.layer"  # metadata of a traced node: module path of the layer it computes
ROWS_KEY = "qexport.rows"  # metadata of a written node that holds several layers: "576|192|192"
SEPARATOR = "|"

PAST, PRESENT = "past_key_values.", "present."  # of the KV cache's inputs and outputs, "0.key" behind
CACHE_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}

# Which logits a caller wants, as [first, end): an input with the default "of each row's last token",
# which is all that generation needs. [0, -1] gives the logits of every token.
LOGITS_RANGE = "logits_range"
LAST_TOKEN = (-1, 2**63 - 1)
EVERY_TOKEN = (0, -1)


def members(node: onnx.NodeProto, rows: int) -> Iterator[tuple[str, slice]]:
    """Each layer of a quantised node and its rows of the `rows` that the weight has.

    Raises ArtifactError where the metadata contradicts the weight.
    """
    names = node.name.split(SEPARATOR)
    text = {entry.key: entry.value for entry in node.metadata_props}.get(ROWS_KEY, str(rows))
    counts = [int(count) for count in text.split(SEPARATOR) if count.isdigit()]
    if len(counts) != len(names) or sum(counts) != rows:
        raise ArtifactError(
            f"node {node.name}: {ROWS_KEY} is {text!r}, which does not divide the {rows} rows of its weight"
            f" among {len(names)} layers; the file was changed after it was written"
        )
    start = 0
    for name, count in zip(names, counts, strict=True):
        yield name, slice(start, start + count)
        start += count

"""Everything here that lowers needs vendors' packages: missing ones skip on a laptop and fail in CI."""

import os

import pytest

from exporter.backends.npu import vendor

KEYS = ("onnxruntime-qnn", "executorch-qualcomm", "executorch-tosa", "executorch-ethos-u")


@pytest.fixture(autouse=True)
def installed(request) -> None:
    if "npu" not in request.keywords:
        return
    problems = [problem for problem in map(vendor.missing, KEYS) if problem]
    if problems and os.environ.get("CI") == "true":
        pytest.fail(f"{problems[0]}; scripts/test --npu installs it")
    if problems:
        pytest.skip(problems[0])

"""The terminal's tables, in full, without colour and within 100 columns."""

from pathlib import Path

from report_sample import sample_data
from rich.console import Console

from exporter.parity import LayerError, ParityReport
from exporter.summary import render_parity, render_result


def shown(renderable, width: int = 100) -> list[str]:
    console = Console(width=width, no_color=True, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return [line.rstrip() for line in capture.get().splitlines() if line.strip()]


def test_the_final_table():
    lines = shown(render_result(sample_data(), Path("out/mixed_int4")))
    assert lines[0] == (
        " target        MB before   MB after   KL, nats   same top token   perplexity ratio (95 %)"
    )
    assert lines[2] == (
        " onnxruntime       538.1      105.3     0.0600           86.1 %    1.041 (1.028 to 1.054)"
    )
    assert lines[4:] == [
        "PASSED: every limit held (16 judged, in 6 comparisons).",
        "onnxruntime  out/mixed_int4/onnxruntime",
        "executorch   out/mixed_int4/executorch",
        "report       out/mixed_int4/report.html",
        "next         qexport inspect out/mixed_int4",
    ]


def test_a_terminal_of_80_columns():
    """Names and figures whole, whatever else is broken over lines."""
    data = sample_data(kl=0.3)
    for renderable in (render_result(data, Path("out/mixed_int4")), render_parity(data["parity"])):
        lines = shown(renderable, 80)
        assert all(len(line) <= 80 and "…" not in line for line in lines)
        words = " ".join(lines).split()
        assert "onnxruntime" in words and "executorch" in words
    missed = next(line for line in lines if line.endswith("MISSED"))
    assert missed.split()[0] == "quantisation"


def test_brackets_in_a_path_are_no_markup():
    lines = shown(render_result(sample_data(blocks=2), Path("out/[red]x")))
    assert "report       out/[red]x/report.html" in lines


def test_the_ladder_says_which_rung_missed():
    lines = shown(render_parity(sample_data(kl=0.3)["parity"]))
    assert all(len(line) <= 100 for line in lines)
    by_rung = {line.split("  ")[0].strip(): line for line in lines if line.startswith(" ")}
    assert by_rung["quantisation"].endswith("MISSED")
    assert by_rung["onnxruntime lowering (prefill)"].endswith("held")
    assert any(line.startswith("FAILED: quantisation: the mean KL divergence is 0.27 nats") for line in lines)


def test_the_layers_with_the_one_where_the_error_rises():
    layers = (LayerError("model.layers.0.a", 8, 41.0, 40.0), LayerError("model.layers.0.b", 4, 20.0, 3.0))
    lines = shown(render_parity(ParityReport(rungs=(), layers=layers).to_json(), layers=True))
    assert any("model.layers.0.b" in line and line.endswith("< rises here") for line in lines)
    assert " ".join(lines).endswith(
        "The error rises at model.layers.0.b: its output is over 6 dB worse than what came in and its own "
        "weights explain."
    )
    assert "FAILED: parity: nothing was compared." in lines

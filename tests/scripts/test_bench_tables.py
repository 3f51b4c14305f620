"""The tables of scripts/bench.py from figures that are known."""

import bench
import bench_tables
from peers.catalog import Built

LINEAR = Built(10.0, 1_000_000_000, stages={"plan": 0.1, "lower to onnxruntime": 4.0})
DOUBLE = Built(20.0, 2_000_000_000, stages={"plan": 0.3, "lower to onnxruntime": 16.0})


def test_growth_of_each_stage(capsys):
    entries = [
        bench.Exported("small", "qexport", 100_000_000, LINEAR),
        bench.Exported("small", "peer", 100_000_000, LINEAR),
        bench.Exported("large", "qexport", 200_000_000, DOUBLE),
        bench.Exported("large", "peer", 200_000_000, Built(1.0, 1, "no place for q_norm")),
    ]
    bench_tables.print_exports(entries)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:8] == [
        "| model | million parameters | exporter | seconds | of it | peak memory, MB |",
        "| --- | --- | --- | --- | --- | --- |",
        "| small | 100 | qexport | 10 | lower to onnxruntime 4.0 | 1,000 |",
        "| small | 100 | peer | 10 | lower to onnxruntime 4.0 | 1,000 |",
        "| large | 200 | qexport | 20 | lower to onnxruntime 16.0 | 2,000 |",
        "| large | 200 | peer | does not run: no place for q_norm | – | – |",
    ]
    start = lines.index("### Growth, and in brackets for each million parameters")
    assert lines[start + 2 : start + 7] == [
        "|  | small, 100 M | large, 200 M | grows with |",
        "| --- | --- | --- | --- |",
        "| qexport, s | 10.0 (0.100) | 20.0 (0.100) | 1.00 |",
        "| qexport: lower to onnxruntime, s | 4.0 (0.040) | 16.0 (0.080) | 2.00 |",
        "| qexport: peak memory, MB | 1,000 (10.0) | 2,000 (10.0) | 1.00 |",
    ]
    assert "| peer, s | 10.0 (0.100) | – | – |" in lines


def test_no_growth_of_one_model(capsys):
    bench_tables.print_exports([bench.Exported("small", "qexport", 100_000_000, LINEAR)])
    assert "Growth" not in capsys.readouterr().out

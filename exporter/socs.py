"""Systems on a chip that an NPU program is compiled for. Pure data.

Numbers are those of Qualcomm's QnnTypes.h as executorch/backends/qualcomm/serialization/qc_schema.py (1.5.1) lists
them, with the generation of the Hexagon Tensor Processor. A wrong number gives a program for another chip, in silence:
exporter.backends.npu reads chip and generation back from every file.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Soc:
    """One chip."""

    name: str  # as on the data sheet
    number: int  # QNN's
    arch: int  # generation of the Hexagon Tensor Processor: 73 is v73
    phones: str = ""  # what people call it


SOCS: dict[str, Soc] = {
    soc.name: soc
    for soc in (
        Soc("SM8350", 30, 68, "Snapdragon 888"),
        Soc("SM8450", 36, 69, "Snapdragon 8 Gen 1"),
        Soc("SM8475", 42, 69, "Snapdragon 8+ Gen 1"),
        Soc("SM8550", 43, 73, "Snapdragon 8 Gen 2"),
        Soc("SM8650", 57, 75, "Snapdragon 8 Gen 3"),
        Soc("SM8750", 69, 79, "Snapdragon 8 Elite"),
        Soc("SM8845", 97, 81, "Snapdragon 8 Gen 5"),
        Soc("SM8850", 87, 81, "Snapdragon 8 Elite Gen 5"),
        Soc("SC8380XP", 60, 73, "Snapdragon X Elite"),
        Soc("QCM6490", 93, 68, "QCM6490"),
        Soc("QCS9100", 77, 73, "QCS9100"),
        Soc("SA8255", 52, 73, "Snapdragon Cockpit"),
        Soc("SA8295", 39, 68, "Snapdragon Cockpit"),
        Soc("SA8797", 72, 81, "Snapdragon Cockpit Elite"),
        Soc("SSG2115P", 46, 73, "Snapdragon AR1"),
        Soc("SSG2125P", 58, 73, "Snapdragon AR1"),
        Soc("SXR1230P", 45, 73, "Snapdragon AR2"),
        Soc("SXR2230P", 53, 69, "Snapdragon XR2 Gen 2"),
        Soc("SXR2330P", 75, 79, "Snapdragon XR2+ Gen 2"),
        Soc("SAR2230P", 95, 81, "Snapdragon AR"),
        Soc("SW6100", 96, 81, "Snapdragon W5"),
    )
}

# Configurations of Arm's Ethos-U that Vela compiles for (ethos-u-vela 5.1.0, --accelerator-config).
ETHOS_U: tuple[str, ...] = (
    *(f"ethos-u85-{macs}" for macs in (128, 256, 512, 1024, 2048)),
    *(f"ethos-u55-{macs}" for macs in (32, 64, 128, 256)),
    *(f"ethos-u65-{macs}" for macs in (256, 512)),
)

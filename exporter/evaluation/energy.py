"""An ESTIMATE of the energy that one token takes: bytes that must be read, and multiply-accumulates, times constants.

Never measured: no meter is read. The constants are Horowitz's, "Computing's Energy Problem (and what we can do about
it)", ISSCC 2014, figure 1.1.9: 45 nm, 0.9 V; 64 bits from DRAM take 1.3 to 2.6 nJ, a product of two 8-bit integers
0.2 pJ and a 32-bit integer sum 0.1 pJ, a product of two float32 3.7 pJ and a float32 sum 0.9 pJ. Chips of today take
less of each; the ratio of two models on one chip says more than either figure. Left out: instructions, caches, norms,
activations, attention's own products, and what a chip takes while it waits.
"""

from __future__ import annotations

from dataclasses import dataclass

from exporter.plan import QuantPlan

SOURCE = "Horowitz, ISSCC 2014, figure 1.1.9, 45 nm"
DRAM_PJ_PER_BYTE = (1300 / 8, 2600 / 8)  # least and most
INT8_PRODUCT_PJ = 0.2 + 0.1
FLOAT_PRODUCT_PJ = 3.7 + 0.9
_PJ_PER_MJ = 1e9


@dataclass(frozen=True)
class Energy:
    """mJ per token."""

    least: float
    most: float

    @property
    def middle(self) -> float:
        """Of the two."""
        return (self.least + self.most) / 2


def energy_per_token(read_bytes: float, int8_products: float, float_products: float) -> Energy:
    """From bytes read from DRAM and multiply-accumulates of one decode step."""
    products = INT8_PRODUCT_PJ * int8_products + FLOAT_PRODUCT_PJ * float_products  # pJ
    least, most = ((each * read_bytes + products) / _PJ_PER_MJ for each in DRAM_PJ_PER_BYTE)
    return Energy(least, most)


def products_per_token(plan: QuantPlan) -> tuple[int, int]:
    """(of 8-bit integers, of float32): one for each weight of each linear layer, a tied output layer too; an
    embedding is looked up. A layer whose activations stay float multiplies in float32, whatever its weights are."""
    integer = real = 0
    for layer in plan.layers:
        if layer.kind == "embedding":
            continue
        if layer.scheme.is_float or layer.scheme.activations != "dynamic-int8":
            real += layer.info.parameters
        else:
            integer += layer.info.parameters
    return integer, real

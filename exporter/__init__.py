"""qexport: one recipe, one set of integers, two mobile runtimes, parity proven on the host."""

__version__ = "0.1.0"

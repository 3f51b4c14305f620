"""A release that is what the recipe's envelope asks for, or none."""

from exporter.releasing.release import release

__all__ = ["release"]

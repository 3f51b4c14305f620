"""`qexport bundle`: artifacts become folders of the Android app's assets, which the app checks and runs."""

from exporter.bundling.bundle import Bundled, bundle
from exporter.bundling.summary import render_bundled

__all__ = ["Bundled", "bundle", "render_bundled"]

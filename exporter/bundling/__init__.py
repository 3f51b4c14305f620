"""`qexport bundle`: artifacts become folders of the Android app's assets, which the app checks and runs."""

from exporter.bundling.summary import render_bundled
from exporter.bundling.writing import Bundled, bundle

__all__ = ["Bundled", "bundle", "render_bundled"]

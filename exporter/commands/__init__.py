"""Commands of their own, which exporter.cli puts under `qexport`."""

"""From manifests to tables, files and pages; no torch."""

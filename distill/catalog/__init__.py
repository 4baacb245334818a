"""Facts about teachers and licences: YAML files, read by catalog.py."""

"""Models and licences: the YAML files, facts.py that reads them, catalog.py that answers."""

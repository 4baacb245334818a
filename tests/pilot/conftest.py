"""A hub on loopback for the tests of fetch."""

from hub_helpers import asking, hub, offline  # noqa: F401 - fixtures

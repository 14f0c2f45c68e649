"""A plugin of pytest: leaves out the tests that would run on the CPU on a machine with a GPU, too."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what takes the fixture `device`."""
    items[:] = [item for item in items if "device" in getattr(item, "fixturenames", ())]

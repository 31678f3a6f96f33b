"""Order of the tests: the smoke report first, what it computed is found by the notebooks, which come last."""


def pytest_collection_modifyitems(items):
    def place(item):
        return 2 if item.path.suffix == ".ipynb" else 0 if item.path.name == "test_report_smoke.py" else 1

    items.sort(key=place)  # stable: the rest keeps its order


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):  # a notebook of nbval; warnings hold paths and process ids
        collector.skip_compare += ("stderr", "image/svg+xml")

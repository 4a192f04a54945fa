"""Numbers of groups of seeds, a panel each."""

import numpy as np
import xarray as xr

from analyses.common import seed_plots


def test_a_number_that_no_seed_has_gets_no_panel():
    text = {"long_name": "ratio", "units": "1"}
    parts = [xr.Dataset({"ratio": ((), value, text), "rank": ((), 1.0, text)}) for value in (np.nan, np.nan)]
    chart = seed_plots.panels([("depth 4", 4, parts)], {"ratio": "Ratio", "rank": "Rank"}).to_dict()
    assert [panel["title"]["text"] for panel in chart["concat"]] == [["Rank"]]

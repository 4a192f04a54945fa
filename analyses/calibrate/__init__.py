"""Is the distance that a critic learns the time that its policy needs?"""

from analyses.calibrate.calibration import compute, summary, table
from analyses.calibrate.calibration_picture import plot

__all__ = ["compute", "plot", "summary", "table"]

"""A simulated screen: cells under twelve mechanisms, in BBBC021's own file layout.

Made from scratch, so that the whole chain can be tried, tested and measured where no data set
is at hand, and where the truth behind each image is known.
"""

from .layouts import layout_table
from .plates import Difficulty
from .write import simulate

__all__ = ["Difficulty", "layout_table", "simulate"]

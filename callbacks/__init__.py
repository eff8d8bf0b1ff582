"""What is measured on generated sets or written to disk; a callback reaches a module through a Protocol."""

from callbacks.downstream import DownstreamClassifier
from callbacks.fid import FrechetDistance
from callbacks.grids import SampleGrid
from callbacks.metrics_file import MetricsFile
from callbacks.progress import ProgressLine

__all__ = ["DownstreamClassifier", "FrechetDistance", "MetricsFile", "ProgressLine", "SampleGrid"]

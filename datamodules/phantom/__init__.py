"""The procedural chest phantom: the embedded default data, with ground truth. See study, render and report."""

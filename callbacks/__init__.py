"""What is measured on generated sets or written to disk; a callback reaches a module by a Protocol, never its class."""

from callbacks.alignment import ReportAlignment
from callbacks.atlas import CodeAtlas
from callbacks.codes import CodeHealth
from callbacks.consistency import ReportConsistency
from callbacks.contrast import FindingContrast
from callbacks.diversity import SampleDiversity
from callbacks.downstream import DownstreamClassifier
from callbacks.fidelity import FidelityMetrics
from callbacks.grids import SampleGrid
from callbacks.health import HealthAlarm
from callbacks.heat_maps import WordHeatMaps
from callbacks.memorisation import PromptMemorisation
from callbacks.metrics_file import MetricsFile
from callbacks.privacy import PrivacyGate
from callbacks.progress import ProgressLine
from callbacks.quality import NaturalQuality
from callbacks.similarity import MultiScaleSimilarity
from callbacks.training_evaluation import TrainingEvaluation
from callbacks.utility import SyntheticUtility

__all__ = [
    "CodeAtlas",
    "CodeHealth",
    "DownstreamClassifier",
    "FidelityMetrics",
    "FindingContrast",
    "HealthAlarm",
    "MetricsFile",
    "MultiScaleSimilarity",
    "NaturalQuality",
    "PrivacyGate",
    "ProgressLine",
    "PromptMemorisation",
    "ReportAlignment",
    "ReportConsistency",
    "SampleDiversity",
    "SampleGrid",
    "SyntheticUtility",
    "TrainingEvaluation",
    "WordHeatMaps",
]

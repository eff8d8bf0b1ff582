"""What is trained: one LightningModule a stage, by the stage's name."""

from lightning.pytorch import LightningModule

from lightning_modules.aligner import WordPatchAligner
from lightning_modules.classifier import FindingClassifier
from lightning_modules.codebook import ImageCodebook
from lightning_modules.generator import CXRGenerator
from lightning_modules.prompter import ReportPrompter

STAGES: dict[str, type[LightningModule]] = {
    "prompter": ReportPrompter,
    "classifier": FindingClassifier,
    "codebook": ImageCodebook,
    "aligner": WordPatchAligner,
    "generator": CXRGenerator,
}

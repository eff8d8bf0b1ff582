"""From files on disk to batches: layouts, manifest, reports, phantom, CXRDataModule.

Nothing is imported here, so that `datamodules.reports` stays free of torch and Lightning.
"""

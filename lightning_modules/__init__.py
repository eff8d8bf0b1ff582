"""What is trained: one LightningModule a stage."""

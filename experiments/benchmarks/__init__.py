"""What is measured, and how the figures are kept."""

"""flawsmith makes defect-inspection training data on demand."""

__version__ = "0.1.0"

"""Progressive weight loading: a model answers long before all of it has arrived."""

__version__ = "0.1.0"

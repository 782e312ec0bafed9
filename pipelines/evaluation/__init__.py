"""A model to a report, reports to a verdict."""

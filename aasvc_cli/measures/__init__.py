"""Scores of conversions: signal measures, judges, statistics, results."""

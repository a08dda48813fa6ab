"""Readers for what the published research code writes."""

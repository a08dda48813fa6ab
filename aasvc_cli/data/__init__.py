"""Parallel corpora: found, matched, split, kept, and served in batches."""

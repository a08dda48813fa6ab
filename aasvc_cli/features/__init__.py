"""Features of recordings: kinds, statistics, storage."""

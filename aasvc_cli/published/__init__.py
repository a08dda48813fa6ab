"""The file formats of the published research code, read as plain data."""

"""Settings: dataclasses, strict reading, and layers of files and options."""

"""Sound: files and streams, mels, pitch, pauses, alignment of two recordings."""

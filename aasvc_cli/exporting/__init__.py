"""Models that leave Python: their networks as ONNX graphs, and a page that runs them in a browser."""

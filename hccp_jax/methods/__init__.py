"""One file a published system: towers and kernels combined into one global loss."""

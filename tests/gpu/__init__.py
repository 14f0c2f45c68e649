"""The proof of the GPU side: `python -m tests.gpu.prove`."""

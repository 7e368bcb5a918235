"""The server on this machine: `python -m local_dev`."""

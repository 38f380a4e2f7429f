"""Speed and promises, measured: each figure with its floor, in one JSON."""

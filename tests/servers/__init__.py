"""Real servers that stand in for the vendors' own, on 127.0.0.1."""

"""One file for each API that the relay serves."""

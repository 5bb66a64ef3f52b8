"""The console as people use it: a real relay, a real Chromium."""

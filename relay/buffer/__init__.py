"""The only code that speaks to Redis about events and records."""

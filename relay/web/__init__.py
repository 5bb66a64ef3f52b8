"""The only code that knows Flask; each module turns requests into calls of what lies below, and back."""

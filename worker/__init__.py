"""The half that delivers: everything after Redis."""

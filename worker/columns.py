"""Which column a value goes to, and in what form: the part that SQL destinations share. Pure."""

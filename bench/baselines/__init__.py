"""What each bench is measured beside: the plain way to do the same, as short as it can be written."""

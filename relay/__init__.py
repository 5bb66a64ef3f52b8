"""The half that receives: everything up to "it is safely in Redis"."""

__version__ = "0.1.0"

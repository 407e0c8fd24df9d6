"""Image super-resolution with 2 to 4 bit networks that really run."""

__version__ = "0.1.0"

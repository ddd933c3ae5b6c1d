"""The pictures of the report page, one a file; each function takes plain values and gives a :class:`Drawing`."""

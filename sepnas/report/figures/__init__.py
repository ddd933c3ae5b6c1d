"""The pictures of the report page, one per file; each function takes plain values and returns a :class:`Drawing`."""

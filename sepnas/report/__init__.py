"""The report page (``content``, ``page``), its figures, and time lines for the terminal and for Perfetto."""

"""What came out: result files (``recorder``, ``results``) and the page to look at (``content``, ``page``)."""

"""The contestants: each gives ``asking(job)`` for the client, and ``follow(job)`` for other ranks, if it has some."""

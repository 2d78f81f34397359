"""Near-duplicates: found by bytes, by hash and by embedding, grouped, with a keeper for each group."""

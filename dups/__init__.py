"""Near-duplicates: found by bytes, by hash and by embedding, grouped, and told what to keep."""

"""Feature store: tables of Parquet parts, SQL views, search, export."""

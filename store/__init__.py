"""Where features rest: tables of Parquet parts, SQL views, search, export."""

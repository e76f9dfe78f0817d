"""Pages of Parquet files, made again of the values in them."""

"""Turn the JSON of results into pages, tables and charts."""

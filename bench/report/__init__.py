"""From the JSON of results to pages, tables and charts."""

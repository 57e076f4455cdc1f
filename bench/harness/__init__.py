"""Time and check implementations: cases, gates, clocks, floors, results."""

"""What times and checks: cases, gates, clocks, floors, results."""

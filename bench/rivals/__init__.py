"""What we compare with: other projects, and what a careful user would write in plain torch."""

"""The rivals: other projects, and the plain torch that a careful user would write."""

"""What comes back: values, and the pure functions on them. Knows no endpoint."""

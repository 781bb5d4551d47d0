"""What every room may use: errors, values, limits, findings and results."""

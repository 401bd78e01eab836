"""What a person reads: results.json, the table, the curve."""

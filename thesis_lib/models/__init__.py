"""The networks: torch only, no data."""

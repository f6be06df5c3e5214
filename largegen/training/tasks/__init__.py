"""One task per network: its data, its loss, its validation."""

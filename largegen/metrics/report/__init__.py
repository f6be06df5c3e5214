"""An evaluation as a page, a table and contact sheets."""

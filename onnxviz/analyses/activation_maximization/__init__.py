"""Images that excite units."""

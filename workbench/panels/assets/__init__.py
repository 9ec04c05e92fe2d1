"""Browser side of the panels: plain JavaScript modules, no build step."""

"""workbench: everything with a face (views, panels, runs, command line). It imports kdcore, never the reverse."""

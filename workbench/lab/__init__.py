"""JupyterLab settings that ship with the workbench (``overrides.json``); :mod:`workbench.lab_server` hands them to the
server."""

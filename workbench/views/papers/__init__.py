"""Pictures of one paper each; what two papers share lives beside this folder. Modules are found, not listed."""

"""How the daemons are run."""

"""Every network: built, loaded, saved."""

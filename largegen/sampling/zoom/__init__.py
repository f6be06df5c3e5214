"""Images that agree with a guide at low magnification."""

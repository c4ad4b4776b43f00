"""What to say: the campaign file, its templates, and how a row finds its variant."""

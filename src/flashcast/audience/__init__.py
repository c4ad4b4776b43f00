"""Where the recipients come from, and the sealed snapshot that is sent to."""

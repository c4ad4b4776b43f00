"""The moment itself: GO, abort, and what is seen of a launch from outside."""

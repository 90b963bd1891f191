"""What turns a reply into a grade."""

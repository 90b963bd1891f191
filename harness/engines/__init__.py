"""Text generation behind one small protocol."""

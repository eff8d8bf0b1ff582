"""Plain torch networks. No Lightning below this line."""
